"""The words some settings may be, apart from what acts on them: reading a flag needs no torch."""

from __future__ import annotations

from typing import Literal

Compatibility = Literal["exact", "architecture", "width"]
"""How closely a probe must fit the model it is used on (`steering.identity`)."""

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""What a model is loaded in (`steering.models`)."""
