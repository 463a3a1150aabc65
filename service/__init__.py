"""service: HTTP in, steered continuation out. No tensor maths; that is `steering/`.

`create_app` is a function of how to load an engine; `Settings` is everything an operator may set. Nothing happens at
import. The command line is `service.cli`.
"""

from service.app import create_app
from service.resident import Loaded
from service.settings import Settings

__all__ = ["Loaded", "Settings", "create_app"]
