"""service: HTTP in, steered continuation out. No tensor maths; that is `steering/`.

`create_app` is a function of how to load an engine; `Settings` is everything an operator may set. Nothing happens at
import, and what is asked for here is looked for when it is (PEP 562): commands that serve nothing begin at once. The
command line is `service.cli`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.app import create_app
    from service.resident import Loaded
    from service.settings import Settings

__all__ = ["Loaded", "Settings", "create_app"]

_HOMES = {"Loaded": "resident", "Settings": "settings", "create_app": "app"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'service' has no attribute {name!r}")
    return getattr(import_module(f"service.{_HOMES[name]}"), name)
