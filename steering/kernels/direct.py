"""Calling `single.project_rows` by addresses, for the passes of one token that decoding consists of.

Between two layers the model streams its own weights through the caches, so every line of code and memory that a call
touches is fetched from afar: making two numpy views and matching six argument types costs more than the projection.
Here everything that stays is written into one table when a batch is compiled, and a call passes three numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from steering.kernels.compiling import FLAGS
from steering.kernels.single import project_rows

Call = Callable[[int, int, int], None]


@intrinsic
def _pointer(typing_context, address):
    """An integer as an untyped pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return numba.types.voidptr(address), generate


def _by_address(table_address, resid_address, out_address):
    table = numba.carray(_pointer(table_address), (9,), np.int64)
    rows, hidden_size, slots, vectors, fields = table[0], table[1], table[2], table[3], table[4]
    project_rows(
        numba.carray(_pointer(resid_address), (rows, 1, hidden_size), np.float32),
        numba.carray(_pointer(out_address), (rows, 1, hidden_size), np.float32),
        numba.carray(_pointer(table[5]), (vectors, hidden_size), np.float32),
        numba.carray(_pointer(table[6]), (rows, 16), np.float64),
        numba.carray(_pointer(table[7]), (slots, rows, 1), np.bool_),
        numba.carray(_pointer(table[8]), (rows, 1, slots, fields), np.float64),
    )


@cache
def project_by_address() -> Call:
    """`project_rows` as a C function of (table, resid, out): addresses of what `ByAddress` holds and of two streams."""
    signature = numba.types.void(numba.types.int64, numba.types.int64, numba.types.int64)
    made: Any = numba.cfunc(signature, **FLAGS)(_by_address)
    _kept.append(made)
    call: Call = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(made.address)
    return call


_kept: list[Any] = []
"""Compiled functions whose addresses are in use."""


class ByAddress:
    """Sizes and addresses of what one layer needs for passes of one token; keeps the arrays alive."""

    def __init__(self, vectors: Any, figures: Any, *, on: Any, record: Any) -> None:
        """Contiguous arrays as `project_rows` takes them: `on` (slots, rows, 1), `record` (rows, 1, slots, FIELDS)."""
        self._arrays = (vectors, figures, on, record)
        assert all(array.flags.c_contiguous for array in self._arrays)
        rows, _, slots, fields = record.shape
        sizes = (rows, vectors.shape[1], slots, len(vectors), fields)
        self._table = np.array([*sizes, *(array.ctypes.data for array in self._arrays)], dtype=np.int64)
        self._address, self._call = int(self._table.ctypes.data), project_by_address()

    def __call__(self, resid: Tensor) -> Tensor:
        """The steered copy of a contiguous float32 `resid` (rows, 1, hidden_size)."""
        out = resid.clone()
        self._call(self._address, resid.data_ptr(), out.data_ptr())
        return out
