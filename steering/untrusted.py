"""A probe from bytes that nobody vouches for: every claim of the file is checked before anything is made from it.

    8 bytes     length of the header, little-endian
    header      JSON: {"__metadata__": {"manifest": "..."}, "<tensor>": {"dtype", "shape", "data_offsets"}, ...}
    data        the tensors, back to back

Work and memory are bounded by the bytes that arrived, never by what they claim. What the safetensors library lets pass
is refused here: a key that stands twice, numbers that are not finite, tensors no probe has. What remains is loaded as
any other artefact, with the same checks (`steering.artefact`, `steering.probe`). No message holds a path.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from steering.artefact import assemble, check_names, parse_manifest
from steering.errors import CorruptProbe
from steering.probe import Probe

MAX_HEADER = 4 << 20
"""Bytes of a header; those of the shipped probes take 0.1 MB."""
_LENGTH = 8
_ENTRY = {"dtype", "shape", "data_offsets"}
_ITEM = 4
"""Bytes of a float32."""


def read_untrusted(data: bytes) -> Probe:
    """The probe of a single file. Raises CorruptProbe with the reason for whatever must not be used."""
    header, begin = _header(data)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or set(metadata) != {"manifest"} or not isinstance(metadata["manifest"], str):
        raise CorruptProbe(
            "the file carries no manifest in its header; it is a safetensors file but not a Tiller probe"
        )
    text = metadata["manifest"]
    _json(text, "the manifest")
    _check_layout(header, len(data) - begin)
    manifest = parse_manifest(text, "the file")
    if manifest.files:
        raise CorruptProbe("the manifest in the header names files; that of a single file names none: export it again")
    check_names(manifest, header.keys(), "the file")
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, TypeError) as error:
        raise CorruptProbe(f"the file is no sound safetensors file ({error}); export it again") from None
    return assemble(manifest, tensors, "the file")


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    if len(data) < _LENGTH:
        raise CorruptProbe(
            f"the file has {len(data)} bytes, and a safetensors file begins with {_LENGTH}; send it whole"
        )
    length = int.from_bytes(data[:_LENGTH], "little")
    most = min(MAX_HEADER, len(data) - _LENGTH)
    if length > most:
        raise CorruptProbe(
            f"the file claims a header of {length} bytes, but at most {most} are possible here; it is no safetensors "
            "file, or was cut short or altered"
        )
    try:
        text = data[_LENGTH : _LENGTH + length].decode()
    except UnicodeDecodeError:
        raise CorruptProbe("the header is not valid UTF-8; the file was altered: export it again") from None
    header = _json(text, "the header")
    if not isinstance(header, dict):
        raise CorruptProbe("the header is no JSON object; the file was altered: export it again")
    return header, _LENGTH + length


def _json(text: str, what: str) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(found)
        if len(document) < len(found):
            raise CorruptProbe(f"{what} holds a key twice in one object, so it has two meanings; export it again")
        return document

    def refuse(literal: str) -> NoReturn:
        raise CorruptProbe(f"{what} holds {literal}, which JSON does not have; export it again")

    def number(literal: str) -> float:
        value = float(literal)
        return value if math.isfinite(value) else refuse("a number beyond all bounds")

    try:
        text.encode()
        return json.loads(text, object_pairs_hook=pairs, parse_constant=refuse, parse_float=number)
    except (ValueError, RecursionError):  # no JSON, a lone surrogate, thousands of digits, too deep
        raise CorruptProbe(f"{what} is not sound JSON; the file was altered: export it again") from None


def _check_layout(tensors: dict[str, Any], size: int) -> None:
    """Each entry is a float32 tensor whose bytes are as many as its shape says; together they fill `size` bytes."""
    spans = []
    for name, entry in tensors.items():
        if not isinstance(entry, dict) or set(entry) != _ENTRY:
            raise CorruptProbe(f"the header says of {_cut(name)} something else than dtype, shape and data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if entry["dtype"] != "F32" or not _counts(shape, most=2) or not _counts(offsets, most=2) or len(offsets) != 2:
            raise CorruptProbe(f"{_cut(name)} is no float32 tensor of at most two dimensions with two data_offsets")
        begin, end = offsets
        if end - begin != _ITEM * math.prod(shape):
            raise CorruptProbe(
                f"{_cut(name)} claims shape {shape} and {end - begin} bytes, which do not fit each other"
            )
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise CorruptProbe(f"two tensors overlap, or bytes between them belong to none, at byte {min(begin, at)}")
        at = end
    if at != size:
        raise CorruptProbe(
            f"the tensors claim {at} bytes and the file has {size} for them; it was cut short or altered"
        )


def _counts(found: Any, *, most: int) -> bool:
    """Whether it is a short list of whole numbers, none negative, none absurd."""
    return (
        isinstance(found, list)
        and len(found) <= most
        and all(type(number) is int and 0 <= number < 2**48 for number in found)
    )


def _cut(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}…")
