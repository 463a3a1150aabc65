"""Where a probe will be saved, checked before hours of work and not after."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from probes.training.recipe import Recipe
from steering.errors import InvalidRequest


def require_new(out: Path, recipe: Recipe) -> None:
    """Raise InvalidRequest when `out` already has this version, or cannot be written to; nothing is left behind."""
    target = out / recipe.name / str(recipe.version)
    if target.exists():
        raise InvalidRequest(
            f"{recipe.name}@{recipe.version} already exists at {target} and versions are never overwritten; "
            "give a higher --version or another --out",
            param="version",
        )
    folder = target.parent
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InvalidRequest(
            f"the probe cannot be written to {folder} ({error.strerror or error}); give another --out", param="out"
        ) from None
