"""The probes a server has at hand: a folder of `<name>/<version>/`, verified against the loaded model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from steering.artefact import MANIFEST, content_sha256, load_probe
from steering.choices import Compatibility
from steering.errors import CorruptProbe, ModelError, UnknownProbe
from steering.identity import check_compatible
from steering.models import LanguageModel
from steering.probe import Probe


class ProbeStore:
    """Probes by id; a name without a version means its highest version."""

    def __init__(self, probes: Iterable[Probe] = (), *, folders: Mapping[str, Path] | None = None) -> None:
        """`folders` says where probes were loaded from, by id."""
        self._probes = {probe.id: probe for probe in probes}
        self._sha256 = {probe.id: content_sha256(probe) for probe in self._probes.values()}
        self._folders = dict(folders or {})

    @classmethod
    def open(cls, folder: Path, lm: LanguageModel, *, level: Compatibility = "exact") -> ProbeStore:
        """Load every probe under `folder`, each of which must be sound and fit `lm`.

        Raises ModelError when the folder is absent, CorruptProbe or ProbeMismatch for the first artefact that must
        not be used: a server that silently lacks a probe would answer 404 where its user expects a bound.
        """
        if not folder.is_dir():
            raise ModelError(f"there is no probe folder {folder}; train one (tiller probe train) or give --probes DIR")
        versions = sorted(path for path in folder.glob("*/*") if path.name.isdigit() and path.is_dir())
        if not versions and any(folder.iterdir()):
            raise ModelError(
                f"{folder} holds files but no probe; expected <name>/<version>/{MANIFEST} below it: "
                "give --probes the folder above the names"
            )
        probes = [load_probe(path) for path in versions]
        for path, probe in zip(versions, probes, strict=True):
            if probe.id != f"{path.parent.name}@{path.name}":
                raise CorruptProbe(f"{path} holds {probe.id}; a probe's folder is <name>/<version>: move it back there")
            check_compatible(probe, lm.info, lm.tokenizer_info, level=level)
        return cls(probes, folders={probe.id: path for path, probe in zip(versions, probes, strict=True)})

    def joined(self, other: ProbeStore) -> ProbeStore:
        """A new store with the probes of both; an id that both have is that of `other`."""
        both = ProbeStore()
        both._probes = self._probes | other._probes
        both._sha256 = self._sha256 | other._sha256
        both._folders = self._folders | other._folders
        return both

    def without(self, probe_id: str) -> ProbeStore:
        """A new store that lacks one probe."""
        less = self.joined(ProbeStore())
        for kept in (less._probes, less._sha256, less._folders):
            kept.pop(probe_id, None)
        return less

    def get(self, name: str) -> Probe:
        """The probe `name@version` or the newest `name`. Raises UnknownProbe, naming what there is."""
        if name in self._probes:
            return self._probes[name]
        versions = [probe for probe in self if probe.manifest.name == name]
        if not versions:
            known = ", ".join(self._probes) or "none; start the server with --probes DIR"
            raise UnknownProbe(f"there is no probe '{name}'; loaded are: {known}")
        return max(versions, key=lambda probe: probe.manifest.version)

    def sha256(self, probe_id: str) -> str:
        """Content hash of a loaded probe."""
        return self._sha256[probe_id]

    def folder(self, probe_id: str) -> Path | None:
        """Where a probe was loaded from; None for one made in memory."""
        return self._folders.get(probe_id)

    def __contains__(self, probe_id: str) -> bool:
        return probe_id in self._probes

    def __iter__(self) -> Iterator[Probe]:
        return iter(self._probes.values())

    def __len__(self) -> int:
        return len(self._probes)
