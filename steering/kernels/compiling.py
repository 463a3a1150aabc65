"""How the loops are compiled, and where the machine code is kept between processes.

Compiling takes seconds, so it is done once: the code is kept in `kernels/<digest>` of the folder TILLER_HOME, under a
digest of all sources it is made from (numba itself looks at one file of several). Where nothing can be written it is
compiled anew by each process; where what was written cannot be read, that folder is removed first. NUMBA_CACHE_DIR,
when set, takes the place of `kernels`. Nothing is written at import.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import NullCache

from steering.embedded import tiller_home

Loop = TypeVar("Loop", bound=Callable[..., Any])

_HERE = Path(__file__).parent
_CONSTANTS = ("record.py", "slab.py", "box_qp.py")
"""Whose constants are compiled in."""

FLAGS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}

_loops: list[Any] = []


def compiled(function: Loop) -> Loop:
    """Machine code at the first call.

    Sums may be reordered so that they vectorise; NaN and infinity keep their meaning. The lock of the interpreter is
    free meanwhile.
    """
    made: Loop = numba.njit(nogil=True, **FLAGS)(function)
    _loops.append(made)
    return made


def keep_on_disk() -> Path | None:
    """From now on read and write compiled code where it is kept; that folder, or None when there is none."""
    before = numba.config.CACHE_DIR
    folder = (Path(before) if before else tiller_home() / "kernels") / _digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    numba.config.CACHE_DIR = str(folder)
    try:
        for loop in _loops:
            loop.enable_caching()
    finally:
        numba.config.CACHE_DIR = before
    return folder


def forget(folder: Path) -> None:
    """Compile anew in this process, and remove what `keep_on_disk` named: it is damaged, or there is no room for it."""
    for loop in _loops:
        loop._cache = NullCache()  # what a loop has before `enable_caching`; numba has no public way back
    shutil.rmtree(folder, ignore_errors=True)


def _digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in (*sorted(_HERE.glob("*.py")), *(_HERE.parent / name for name in _CONSTANTS)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
