"""GGUF control vectors, as llama.cpp loads them and repeng writes them.

`general.architecture` is "controlvector", `controlvector.model_hint` the model type, and the tensors `direction.k` are
one-dimensional float32. Numbering: in both tools `direction.k` is added to the output of the 0-based block k, so k is
our layer. (llama.cpp keeps its vectors in an array that begins at layer 1 and adds entry k - 1 after block k; repeng
reads `hidden_states[k + 1]`.) llama.cpp refuses k = 0: the output of the first block has no place in its file. repeng
may write it, and it is read here.

Sign: adding the vector with a positive strength means more of the concept. Length: as the writer left it (repeng writes
unit vectors). Ours is said in the keys `controlvector.tiller.*`, which other readers pass over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray

from probes.errors import ExchangeError
from probes.exchange.foreign import LAYER, NOT_SAID, Foreign, as_vector, sha256_of

FORMAT = "gguf"
ARCHITECTURE = "controlvector"
_PREFIX = "direction."
_BROKEN = (ValueError, IndexError, KeyError, OverflowError, MemoryError, TypeError)
"""What the reader raises on bytes that are no GGUF; it has no error of its own."""


class _BoundedReader(gguf.GGUFReader):
    """The library's reader, which past the end of a file reads nothing, as often as the file's own numbers say."""

    def _get(
        self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: Literal["I", "S", "<"] | None = None
    ) -> NDArray[Any]:
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError("it ends before what it announces")
        return super()._get(offset, dtype, count, override_order)


def read_control_vector(path: Path) -> Foreign:
    """Read a control vector. Raises ExchangeError for anything else, saying what it is."""
    try:
        reader = _BoundedReader(path)
    except OSError as error:
        raise ExchangeError(f"{path.name} cannot be read ({error.strerror or error})") from error
    except _BROKEN as error:
        raise ExchangeError(f"{path.name} is not a whole GGUF file ({error}); fetch or export it again") from None
    architecture = _text(reader, "general.architecture")
    if architecture != ARCHITECTURE:
        raise ExchangeError(
            f"{path.name} is a GGUF file of architecture '{architecture}', expected '{ARCHITECTURE}'; "
            "a model's weights are no control vector"
        )
    weights: dict[int, torch.Tensor] = {}
    for tensor in reader.tensors:
        if not tensor.name.startswith(_PREFIX):
            raise ExchangeError(
                f"{path.name}: tensor '{tensor.name}' is none of a control vector's ('direction.<layer>')"
            )
        number = tensor.name.removeprefix(_PREFIX)
        if not LAYER.fullmatch(number):
            raise ExchangeError(f"{path.name}: tensor '{tensor.name}' names no layer; expected 'direction.<layer>'")
        if tensor.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            raise ExchangeError(
                f"{path.name}: '{tensor.name}' is stored as {tensor.tensor_type.name}, expected F32 or F16"
            )
        values = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
        weights[int(number)] = as_vector(values, where=f"{path.name}: '{tensor.name}'")
    return Foreign(
        format=FORMAT,
        file=path.name,
        sha256=sha256_of([path]),
        weights=weights,
        biases=None,
        lost=("the bias, and with it any bound in probability", *NOT_SAID),
        architecture=_text(reader, "controlvector.model_hint"),
        positive_is=_text(reader, "controlvector.tiller.positive_is"),
    )


def write_control_vector(
    path: Path,
    vectors: Mapping[int, NDArray[np.float32]],
    *,
    architecture: str,
    said: Mapping[str, str],
    lost: Sequence[str],
) -> None:
    """Write `direction.<layer>` for every layer, which must not be 0; `said` becomes keys `controlvector.tiller.*`."""
    assert 0 not in vectors, "llama.cpp refuses direction.0"
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", architecture)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
    for key, value in said.items():
        writer.add_string(f"{ARCHITECTURE}.tiller.{key}", value)
    if lost:
        writer.add_array(f"{ARCHITECTURE}.tiller.lost", list(lost))
    for layer, vector in sorted(vectors.items()):
        writer.add_tensor(f"{_PREFIX}{layer}", np.ascontiguousarray(vector, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _text(reader: gguf.GGUFReader, key: str) -> str | None:
    found = reader.get_field(key)
    if found is None or found.types[:1] != [gguf.GGUFValueType.STRING]:
        return None
    return bytes(found.parts[-1]).decode("utf-8", "replace")
