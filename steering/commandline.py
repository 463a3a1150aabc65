"""The manners all our commands share: an error is one clear line, and the exit code says whose turn it is.

0 done, 2 refused with a reason the caller can act on, 130 interrupted. Anything else is a bug and shows its trace.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from steering.errors import TillerError

INTERRUPTED = 130


def run_app(app: typer.Typer, argv: Sequence[str] | None, *, prog_name: str, interrupted: str = "interrupted") -> int:
    """Run a typer `app` on `argv` (None: the process's own) and return its exit code.

    `interrupted` is said after Ctrl-C: what was kept and how to go on. A command finds the arguments as they were typed
    in its context's `obj`.
    """
    console = Console(stderr=True, emoji=False)  # FOLDER:train: is no train
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        app(args=arguments, prog_name=prog_name, obj=arguments)
    except TillerError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
    else:
        code = 0
    if code == INTERRUPTED:
        console.print(interrupted, style="yellow", soft_wrap=True, highlight=False)
    return code
