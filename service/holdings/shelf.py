"""Uploaded probes on the disk: `<state>/probes/<model>/<name>/<version>/`, as in any probe folder.

A version is written aside, synced, and renamed into place, so that whoever looks finds all of it or nothing, also after
a crash. The bytes are those that were uploaded. The model's part of the path names its weights, wiring and vocabulary,
so a state folder can serve several models one after another.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from steering.artefact import MANIFEST, TENSORS, load_probe, sync_folder, write_single_file
from steering.choices import Compatibility
from steering.errors import CorruptProbe
from steering.identity import check_compatible, hash_json
from steering.models import LanguageModel
from steering.probe import Probe
from steering.store import ProbeStore

_STALE_SECONDS = 3600
"""What was being written so long ago belongs to a process that was killed."""


class AlreadyThere(Exception):
    """The version is on the shelf."""


class Shelf:
    """The uploads of one model. Changes come from one thread at a time; other processes may share the folder."""

    def __init__(self, state: Path, lm: LanguageModel, *, level: Compatibility) -> None:
        self._lm = lm
        self._level = level
        self.folder = state / "probes" / model_key(lm)
        self._aside = state / "probes" / ".partial"

    def open(self) -> ProbeStore:
        """Every upload, verified as `ProbeStore.open` does, whose errors this raises."""
        for left in self._aside.glob("*"):
            if left.stat().st_mtime < time.time() - _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        if not any(self.folder.glob(f"*/*/{MANIFEST}")):
            return ProbeStore()
        return ProbeStore.open(self.folder, self._lm, level=self._level)

    def put(self, data: bytes, probe: Probe) -> ProbeStore:
        """Keep a single file whose probe has been read and found fit, and return a store that holds it.

        What was written is loaded as the next start will load it before it gets its name. Raises AlreadyThere,
        CorruptProbe when it does not load, OSError when there is no room or right. The same bytes being there already,
        such as those of an upload whose answer was lost, are no error.
        """
        target = self.folder / probe.manifest.name / str(probe.manifest.version)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._aside.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=self._aside))
        try:
            written = aside / "probe"
            write_single_file(data, probe.manifest, written)
            kept = load_probe(written)
            check_compatible(kept, self._lm.info, self._lm.tokenizer_info, level=self._level)
            if not _renamed(written, target) and (target / TENSORS).read_bytes() != data:
                raise AlreadyThere
        except CorruptProbe as error:
            told = str(error).replace(str(aside), "the file")
            raise CorruptProbe(f"the file would not load again once stored ({told}); export it again") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync_folder(target.parent)
        sync_folder(self.folder)
        return ProbeStore([kept], folders={kept.id: target})

    def remove(self, probe: Probe) -> None:
        """Take a version away, all of it at once. Raises OSError."""
        target = self.folder / probe.manifest.name / str(probe.manifest.version)
        self._aside.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=self._aside))
        try:
            os.rename(target, aside / "probe")
            sync_folder(target.parent)
        except FileNotFoundError:  # another process was faster
            pass
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _renamed(source: Path, target: Path) -> bool:
    """Whether `source` got the name; False when it is taken."""
    try:
        os.rename(source, target)
    except OSError:
        if not target.exists():
            raise
        return False
    return True


def stored_file(folder: Path) -> bytes:
    """The single file of a stored probe, as it was written.

    Raises OSError, and CorruptProbe when it is no longer what `probe.json` beside it says.
    """
    data = (folder / TENSORS).read_bytes()
    load_probe(folder)
    return data


def model_key(lm: LanguageModel) -> str:
    """A folder name for one model's probes: readable, and different for other weights, wiring or vocabulary."""
    info, tokenizer = lm.info, lm.tokenizer_info
    digest = hash_json([info.revision, info.config_sha256, tokenizer.sha256, tokenizer.chat_template_sha256])
    return f"{re.sub('[^a-z0-9]+', '-', info.id.lower()).strip('-')[:48] or 'model'}-{digest[:16]}"
