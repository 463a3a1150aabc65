"""`python -m service` is `tiller`, for where the console script is not on the path."""

import sys

from service.cli import main

if __name__ == "__main__":
    sys.exit(main())
