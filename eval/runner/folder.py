"""A run on disk: what it is, its prompts, the parts of its samples and of every measure, and the table of all.

run.json                    what the samples depend on; a run that differs is refused here
prompts.parquet             set, id, stratum, line, text
samples/part-00000.parquet  one per chunk
measures/<name>/            card.json and one part per chunk
neutral/, neutral.parquet   the divergence of every steered arm on neutral text, where the spec has some
layers/, layers.parquet     what the probes read at every layer, where the model was here
probes.json                 the manifests of the probes, where they were at hand
samples.parquet             the table of all, once everything is there
provenance.json
report.json, .md, .html     what it all says (eval.report)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from eval.runner.errors import SpecError
from eval.runner.parts import Parts, kept_whole, write_table, write_text
from eval.runner.prompts import Prompt
from eval.runner.schema import SAMPLES

FORMAT = 1
PROMPTS = pa.schema(
    [
        ("prompt_set", pa.string()),
        ("prompt_id", pa.string()),
        ("stratum", pa.string()),
        ("line", pa.int32()),
        ("text", pa.string()),
    ]
)
_SHOWN = 6


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes here meanwhile. Raises SpecError when somebody does, RunStopped for no room."""
        with kept_whole(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        with kept_whole(self.path):
            try:
                lock.acquire()
            except Timeout:  # which is an OSError
                raise SpecError(
                    f"another process is writing to {self.path}; wait for it, or give another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def settle(self, identity: Mapping[str, Any], prompts: Sequence[Prompt]) -> bool:
        """Make this the folder of that run; True when it was before, and goes on.

        Raises SpecError with what differs when it is another's.
        """
        now = json.loads(json.dumps({"format": FORMAT, **identity}))
        if (self.path / "run.json").is_file():
            changed = differences(self.identity(), now)
            if changed:
                more = f", and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
                raise SpecError(
                    f"{self.path} holds another run: {'; '.join(changed[:_SHOWN])}{more}. Put that back to go on with "
                    "it, or give another --out"
                )
            return True
        write_table(self.path / "prompts.parquet", pa.table(_prompt_columns(prompts), schema=PROMPTS))
        write_text(self.path / "run.json", json.dumps(now, indent=2) + "\n")
        return False

    def identity(self) -> dict[str, Any]:
        """What `settle` wrote. Raises SpecError when this is no run."""
        path = self.path / "run.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SpecError(f"{self.path} holds no run (no run.json); give the --out of a run") from None
        except (OSError, ValueError):
            raise SpecError(f"{path} cannot be read; give another --out, or delete that folder") from None
        return found

    def samples(self) -> Parts:
        """The parts of what was written."""
        return Parts(self.path / "samples", SAMPLES)

    def measure(self, name: str, schema: pa.Schema, card: Mapping[str, Any]) -> Parts:
        """The parts of a measure, emptied when they were made under another card."""
        parts = Parts(self.measure_folder(name), schema)
        path = parts.folder / "card.json"
        now = json.dumps(dict(card), indent=2, sort_keys=True) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != now:
            for part in parts.folder.glob("part-*.parquet"):
                part.unlink()
            write_text(path, now)
        return parts

    def measure_folder(self, name: str) -> Path:
        """Where the parts of the measure `name` are."""
        return self.path / "measures" / re.sub(r"[^\w.+-]+", "-", name)

    def measured(self, sizes: Sequence[int], *, first: Sequence[str]) -> list[pa.Table]:
        """The columns of every measure whose parts are all there, in the order of the parts; `first` come first."""
        cards = {path.parent.name: path.parent for path in sorted((self.path / "measures").glob("*/card.json"))}
        order = [self.measure_folder(name).name for name in first]
        found = []
        for name in dict.fromkeys([*(name for name in order if name in cards), *cards]):
            paths = [cards[name] / f"part-{index:05d}.parquet" for index in range(len(sizes))]
            if all(path.is_file() for path in paths):
                found.append(pa.concat_tables([pq.read_table(path) for path in paths]))
        return found

    def cards(self) -> list[dict[str, Any]]:
        """Of every scorer that has judged here, also those that came later."""
        found = [
            json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.path.glob("measures/*/card.json"))
        ]
        return [card for card in found if "higher_is" in card]

    def left_out(self) -> list[str]:
        """What the run did without, as its report said."""
        path = self.path / "report.json"
        found: list[str] = json.loads(path.read_text(encoding="utf-8"))["left_out"] if path.is_file() else []
        return found

    def prompt_texts(self) -> dict[tuple[str, str], str]:
        """(set, id) -> text."""
        table = pq.read_table(self.path / "prompts.parquet", schema=PROMPTS)
        return {(row["prompt_set"], row["prompt_id"]): row["text"] for row in table.to_pylist()}

    def table(self) -> pa.Table:
        """`samples.parquet`. Raises SpecError when the run has not come that far."""
        path = self.path / "samples.parquet"
        if not path.is_file():
            raise SpecError(f"{self.path} has no samples.parquet yet; finish the run first")
        return pq.read_table(path)

    def neutral(self) -> dict[str, list[float]]:
        """Arm -> divergence on each neutral excerpt; empty where none was measured."""
        path = self.path / "neutral.parquet"
        found: dict[str, list[float]] = {}
        for row in pq.read_table(path).to_pylist() if path.is_file() else []:
            found.setdefault(row["arm"], []).append(row["kl"])
        return found

    def layers(self) -> list[dict[str, Any]]:
        """Rows of `layers.parquet`: arm, probe, layer, before, after, tokens; empty where none was measured."""
        path = self.path / "layers.parquet"
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.is_file() else []
        return found

    def document(self, name: str) -> dict[str, Any]:
        """A JSON document that `write` wrote; empty where there is none."""
        path = self.path / name
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """A JSON document."""
        write_text(self.path / name, json.dumps(document, indent=2, allow_nan=False) + "\n")


def differences(was: Any, now: Any, *, at: str = "") -> list[str]:
    """What changed between two JSON values, as `decoding.top_p: 0.9, now 0.3`."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*was, *now]))
        inner = [differences(was.get(key), now.get(key), at=f"{at}.{key}" if at else key) for key in keys]
        return [line for lines in inner for line in lines]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        inner = [differences(a, b, at=f"{at}.{index}") for index, (a, b) in enumerate(zip(was, now, strict=True))]
        return [line for lines in inner for line in lines]
    return [] if was == now else [f"{at}: {_short(was)}, now {_short(now)}"]


def _short(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return _short(value["name"])
    if isinstance(value, list):
        return f"{len(value)} ({_short(', '.join(map(_short, value)))})"
    if value is None:
        return "nothing"
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:59]}…"


def _prompt_columns(prompts: Sequence[Prompt]) -> dict[str, list[object]]:
    return {
        "prompt_set": [prompt.set for prompt in prompts],
        "prompt_id": [prompt.id for prompt in prompts],
        "stratum": [prompt.stratum for prompt in prompts],
        "line": [prompt.line for prompt in prompts],
        "text": [prompt.text for prompt in prompts],
    }
