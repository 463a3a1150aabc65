"""A probe on disk: `<name>/<version>/probe.safetensors` + `probe.json`. No pickle, ever.

Tensors are float32: `layers.{i}.weight [hidden_size]`, `.bias []`, `.calibration [2]`, `.resid_norm []`,
`.quantiles.negative [101]`, `.quantiles.positive [101]` and the groups of `steering.fitted`. The manifest, without the
file hashes, also stands in the safetensors header, so the single file can be loaded alone. A saved version is never
written again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Set
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from steering.errors import CorruptProbe, InvalidRequest, UnknownProbe
from steering.fitted import NAMES
from steering.manifest import SCHEMA_VERSION, Manifest
from steering.probe import LayerProbe, Probe

TENSORS = "probe.safetensors"
MANIFEST = "probe.json"
_REQUIRED = ("weight", "bias", "calibration", "resid_norm")
_OPTIONAL = ("quantiles.negative", "quantiles.positive", *sorted(NAMES))


def save_probe(probe: Probe, root: Path, *, beside: Callable[[Path], object] = lambda folder: None) -> Path:
    """Write `probe` to `root/<name>/<version>/` and return that folder; written aside, then renamed into place.

    `beside` may put further files (a card) into the folder before it is renamed. Raises InvalidRequest when the
    version exists, since versions are immutable, or when there is no room or right to write.
    """
    target = root / probe.manifest.name / str(probe.manifest.version)
    if target.exists():
        raise InvalidRequest(
            f"{probe.id} already exists at {target} and versions are never overwritten; give a higher version",
            param="version",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        bare = probe.manifest.model_copy(update={"files": {}})
        save_file(_tensors(probe), aside / TENSORS, metadata={"manifest": bare.model_dump_json()})
        complete = bare.model_copy(update={"files": {TENSORS: _sha256(aside / TENSORS)}})
        (aside / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
        aside.chmod(0o755)
        (aside / TENSORS).chmod(0o644)  # safetensors writes it for its owner alone; whoever serves must read it
        beside(aside)
        os.rename(aside, target)
    except OSError as error:
        raise InvalidRequest(
            f"{probe.id} cannot be written to {target} ({error.strerror or error}); free some space or choose another "
            "folder",
            param="out",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def single_file(probe: Probe) -> bytes:
    """`probe` as the bytes of its self-contained `probe.safetensors`; the same probe gives the same bytes."""
    bare = probe.manifest.model_copy(update={"files": {}})
    return save(_tensors(probe), metadata={"manifest": bare.model_dump_json()})


def write_single_file(data: bytes, manifest: Manifest, folder: Path) -> None:
    """Put a single file, byte for byte, and the `probe.json` made from its header into a new `folder`, on the disk.

    The folder loads with `load_probe` then. Raises OSError.
    """
    complete = manifest.model_copy(update={"files": {TENSORS: hashlib.sha256(data).hexdigest()}})
    folder.mkdir(mode=0o755)
    for name, content in ((TENSORS, data), (MANIFEST, f"{complete.model_dump_json(indent=2)}\n".encode())):
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_probe(path: Path) -> Probe:
    """Read and verify a probe from its folder, or from a lone `.safetensors` file.

    Raises UnknownProbe when nothing is there, CorruptProbe (with the reason) when what is there must not be used:
    truncated or altered files, a header that disagrees with `probe.json`, unknown schema or keys, missing or surplus
    tensors, wrong shapes, NaN.
    """
    if path.is_dir():
        manifest = _read_manifest(path / MANIFEST)
        tensors_path = path / TENSORS
        expected = manifest.files.get(TENSORS)
        if not tensors_path.is_file():
            raise CorruptProbe(f"{path} has no {TENSORS}; copy the whole folder again")
        if expected is None or _sha256(tensors_path) != expected:
            raise CorruptProbe(
                f"{tensors_path} does not have the SHA-256 its manifest states; "
                "it was changed or cut short after it was written: fetch or train it again"
            )
        header, tensors = _read_tensors(tensors_path)
        if header != manifest.model_copy(update={"files": {}}):
            raise CorruptProbe(f"{path / MANIFEST} and the header of {TENSORS} disagree; fetch or train it again")
        return assemble(header, tensors, path)
    if path.is_file():
        return assemble(*_read_tensors(path), path)
    raise UnknownProbe(f"no probe at {path}; expected a folder with {MANIFEST} and {TENSORS}, or a .safetensors file")


def content_sha256(probe: Probe) -> str:
    """SHA-256 over the numbers of `probe`, independent of file layout: what a cache or a log can key on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(probe).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tensors(probe: Probe) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, fitted in sorted(probe.layers.items()):
        named = {
            "weight": fitted.weight.cpu().contiguous(),
            "bias": torch.tensor(fitted.bias, dtype=torch.float32),
            "calibration": torch.tensor(fitted.calibration, dtype=torch.float32),
            "resid_norm": torch.tensor(fitted.resid_norm, dtype=torch.float32),
            "quantiles.negative": fitted.quantiles_negative,
            "quantiles.positive": fitted.quantiles_positive,
            **{name: tensor.cpu().contiguous().clone() for name, tensor in fitted.fitted.items()},
        }
        tensors |= {f"layers.{layer}.{name}": value for name, value in named.items() if value is not None}
    return tensors


def check_names(manifest: Manifest, names: Set[str], path: Path | str) -> None:
    """Raise CorruptProbe, beginning with `path`, unless these are the tensors the manifest speaks of."""
    expected = {f"layers.{layer}.{name}" for layer in manifest.metrics for name in _REQUIRED}
    optional = {f"layers.{layer}.{name}" for layer in manifest.metrics for name in _OPTIONAL}
    missing, surplus = expected - names, names - expected - optional
    if missing or surplus:
        raise CorruptProbe(
            f"{path}: tensors do not fit the manifest (missing {sorted(missing)[:3]}, unknown {sorted(surplus)[:3]}); "
            "fetch or train it again"
        )


def assemble(manifest: Manifest, tensors: dict[str, Tensor], path: Path | str) -> Probe:
    """The probe of a file's header and tensors. Raises CorruptProbe, beginning with `path`, unless they fit."""
    check_names(manifest, tensors.keys(), path)
    shapes: dict[str, tuple[int, ...]] = {"bias": (), "calibration": (2,), "resid_norm": ()}
    for name, tensor in tensors.items():
        shape = shapes.get(name.split(".", 2)[2])
        if tensor.dtype != torch.float32 or (shape is not None and tuple(tensor.shape) != shape):
            raise CorruptProbe(f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected float32 {shape}")

    def layer_probe(layer: int) -> LayerProbe:
        def get(name: str) -> Tensor:
            return tensors[f"layers.{layer}.{name}"]

        scale, shift = get("calibration").tolist()
        return LayerProbe(
            weight=get("weight"),
            bias=float(get("bias")),
            calibration=(scale, shift),
            resid_norm=float(get("resid_norm")),
            quantiles_negative=tensors.get(f"layers.{layer}.quantiles.negative"),
            quantiles_positive=tensors.get(f"layers.{layer}.quantiles.positive"),
            fitted={name: get(name) for name in sorted(NAMES) if f"layers.{layer}.{name}" in tensors},
        )

    return Probe(manifest=manifest, layers={layer: layer_probe(layer) for layer in sorted(manifest.metrics)})


def _read_manifest(path: Path) -> Manifest:
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise CorruptProbe(f"{path.parent} has no {MANIFEST}; a probe is a folder with both files") from None
    except (UnicodeDecodeError, OSError):
        raise CorruptProbe(f"{path} is not a readable UTF-8 file; fetch or train the probe again") from None


def parse_manifest(text: str, path: Path | str) -> Manifest:
    """A manifest from JSON. Raises CorruptProbe, beginning with `path`, for anything else."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise CorruptProbe(
            f"{path}: the manifest is not one of schema {SCHEMA_VERSION} ({where}: {first['msg']}); "
            "it is damaged or comes from another release"
        ) from None


def _read_tensors(path: Path) -> tuple[Manifest, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "manifest" not in metadata:
                raise CorruptProbe(f"{path} carries no manifest in its header; it is not a Tiller probe")
            return parse_manifest(metadata["manifest"], path), {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118  # not a mapping
            }
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CorruptProbe(f"{path} is not a readable safetensors file ({error}); fetch or train it again") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
