"""Folders of format 1, taken over without reading a text again: float32, no hashes, rows before layers.

Their arrays stay as they are; each shard gets the seal it lacked, and the index is replaced last, so that a kill in
between leaves a folder of format 1 that is upgraded further. Damage from before the upgrade cannot be found by a hash
that did not exist; an array of the wrong shape is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from probes.harvest.sealed import Sealed
from probes.harvest.storage import read_json


def modernised(stored: Mapping[str, object], labelled: str, corpus: str) -> dict[str, object]:
    """An index of format 1 in the words of format 2; the corpus was known by texts and labels, now by its texts."""
    known = {"corpus": corpus} if stored.get("corpus") == labelled else {}
    return {**stored, **known, "template": "raw", "tokens_per_text": None, "shard_dtype": "float32", "format": 2}


def adopt_all(sealed: Sealed, names: tuple[str, ...], shapes: Sequence[tuple[int, int, int]]) -> None:
    """Seal every finished shard of format 1; one whose arrays are not of its shape is left to be made again.

    `names` are the poolings, `shapes` what the arrays of each shard must have. Raises OSError.
    """
    for shard, shape in enumerate(shapes):
        if not sealed.finished(shard):
            continue
        entry = read_json(sealed.seal_path(shard)) or {}
        if "files" in entry:
            continue
        try:
            found = {np.load(sealed.array_path(shard, name), mmap_mode="r", allow_pickle=False).shape for name in names}
            counts = {name: int(str(entry[name])) for name in ("rows", "tokens", "truncated")}
        except (OSError, ValueError, KeyError, EOFError):
            found, counts = set(), {}
        if found == {shape}:
            sealed.adopt(shard, names, counts | {"kept": 0})
        else:
            sealed.discard(shard)
