"""Dataset folders of the Hugging Face kind, read without the `datasets` package.

Two layouts. What `save_to_disk` leaves: `state.json` that lists Arrow files and `dataset_info.json` with the features,
one such folder per split under a `dataset_dict.json`. And a folder as it stands on the Hub: files of one format, at
the top or under `data/`, whose split is told by their name (`train-00000-of-00002.parquet`, `test.jsonl`) or by the
folder they are in (`train/part-1.csv`); files that name no split are one table.

Not read: loading scripts, the YAML header of a README (so class names are known only where the files or
`dataset_info.json` carry them), and configurations (name the configuration's own folder).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.errors import CorpusError
from probes.texts.formats import KNOWN, format_of, names_of_features

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"(?P<split>\w+(?:[.-]\w+)*)-(?P<at>\d{5})-of-(?P<total>\d{5})(?:-\w+)?")

Classes = dict[str, tuple[str, ...]]
"""Column -> names of its classes."""


def files_of(folder: Path, split: str | None) -> tuple[tuple[Path, ...], Classes]:
    """The data files of one split of a dataset folder, in order, and the class names its metadata give.

    `split` may be None where the folder has one. Raises CorpusError for a folder without data, an unknown or missing
    split, a mix of formats in one split, missing shards, and metadata that cannot be read.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(one, str) and _is_plain(one) for one in splits):
            raise CorpusError(f"{folder / 'dataset_dict.json'} does not list the splits; save the dataset again")
        return _saved(folder / _chosen(folder, splits, split))
    if (folder / "state.json").is_file():
        own = _json(folder / "state.json").get("_split")
        if split is not None and split != own:
            raise CorpusError(
                f"{folder} is one saved split{f' ({own})' if own else ''}, without '{split}'; leave ':' off"
            )
        return _saved(folder)
    splits_found = _on_the_hub(folder)
    files = splits_found[_chosen(folder, list(splits_found), _WORDS.get(split or "", split))]
    formats = sorted({str(format_of(file)) for file in files})
    if len(formats) > 1:
        raise CorpusError(
            f"{folder} mixes {' and '.join(formats)} files in one split; name one file, or keep one format"
        )
    return tuple(files), _described(folder)


def _chosen(folder: Path, splits: Sequence[str], split: str | None) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        found = f"no split '{split}'" if split is not None else f"{len(splits)} splits and none is named"
        example = f"; write for example {folder}:{splits[0]}" if splits else ""
        raise CorpusError(f"{folder} has {found}; its splits are: {', '.join(splits) or 'none'}{example}", param="data")
    return str(split)


def _saved(folder: Path) -> tuple[tuple[Path, ...], Classes]:
    """What `Dataset.save_to_disk` leaves."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise CorpusError(f"{folder} is a selection of rows kept as an index; call flatten_indices() and save it again")
    listed = state.get("_data_files")
    entries = listed if isinstance(listed, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise CorpusError(f"{folder / 'state.json'} does not list the data files; save the dataset again")
    files = tuple(folder / str(name) for name in names)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CorpusError(
            f"{folder} lacks {len(missing)} of its {len(files)} files ({missing[0]}, ...); fetch it again"
        )
    return files, _described(folder)


def _on_the_hub(folder: Path) -> dict[str, list[Path]]:
    """Split -> files. Files of a folder named after a split belong to it, others tell theirs by name."""
    root = next((place for place in (folder / "data", folder) if _data_files(place) or _split_folders(place)), None)
    if root is None:
        below = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _data_files(path)]
        hint = f"; data stand in its folders {', '.join(below[:10])}: name one" if below else ""
        raise CorpusError(
            f"{folder} holds no data files; expected {KNOWN}, at its top or under data/{hint}", param="data"
        )
    splits: dict[str, list[Path]] = {}
    nameless = []
    for file in _data_files(root):
        split = _split_of(file)
        splits.setdefault(split, []).append(file) if split else nameless.append(file)
    for place in _split_folders(root):
        splits.setdefault(_WORDS[place.name.lower()], []).extend(_data_files(place))
    if not splits:
        return {"train": nameless}
    if nameless:
        raise CorpusError(
            f"{root}: cannot tell the split of {nameless[0].name} from its name, while others name theirs; name that "
            "file itself, or rename it (train-..., test-...)"
        )
    for files in splits.values():
        _refuse_missing_shards(files)
    return splits


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] not in "._" and format_of(path)
    ]


def _split_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.name.lower() in _WORDS and _data_files(path)]


def _stem(file: Path) -> str:
    return file.name.lower().removesuffix(".gz").rpartition(".")[0]


def _split_of(file: Path) -> str | None:
    shard = _SHARD.fullmatch(_stem(file))
    words = {_WORDS[word] for word in re.split(r"[^a-z]+", _stem(file)) if word in _WORDS}
    if len(words) == 1 and not (shard and shard["split"] not in _WORDS):
        return words.pop()
    return shard["split"] if shard else None


def _refuse_missing_shards(files: Sequence[Path]) -> None:
    shards = [shard for file in files if (shard := _SHARD.fullmatch(_stem(file)))]
    if shards and {int(shard["at"]) for shard in shards} != set(range(int(shards[0]["total"]))):
        raise CorpusError(
            f"{files[0].parent}: {len(shards)} of the {int(shards[0]['total'])} shards of {shards[0]['split']} are "
            "there; fetch the others"
        )


def _described(folder: Path) -> Classes:
    """Class names of `dataset_info.json`, where there is one."""
    path = folder / "dataset_info.json"
    return names_of_features(_json(path).get("features")) if path.is_file() else {}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CorpusError(f"{path} cannot be read as a JSON object; save or fetch the dataset again")
    return found


def _is_plain(name: str) -> bool:
    """One file or folder name, which cannot lead out of the dataset's folder."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\")
