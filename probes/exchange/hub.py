"""One probe version in one repository of the Hugging Face Hub: its artefact folder, and a README.md in front of it.

`push` uploads it, or writes the same layout to a folder. `pull` takes it at one commit: the revision is resolved to a
commit hash first, and everything after that asks for the hash. Only .safetensors, .json, .md and .png files are
fetched, whatever else the repository holds; a name that leads out of its folder is an error. An .html file may run
scripts in a browser, so `card.html` is uploaded for readers of the hub but never fetched: it is made here from the
artefact. The probe is loaded and every hash in its manifest checked in a folder aside, and only then appears under
`<out>/<name>/<version>/`, with the repository and commit in `hub.json`.

What a hash proves is that the files are those the manifest was written with, not who wrote it: pin a commit you trust.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from probes.card import write_html
from probes.errors import ExchangeError
from probes.exchange.foreign import write_aside
from probes.exchange.model_card import model_card
from steering.artefact import MANIFEST, TENSORS, load_probe
from steering.errors import CorruptProbe
from steering.probe import Probe

SUFFIXES = (".safetensors", ".json", ".md", ".png")
UPLOADED = (*SUFFIXES, ".html")
README = "README.md"
SOURCE = "hub.json"
CARD = "card.md"
_OUR_OWN = {README, SOURCE}
_CLIENT: type[Exception] = HfHubHTTPError.__mro__[1]
"""The base error of the hub's HTTP client: httpx's or httpx2's, as its release has it."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pulled:
    """What arrived, and from where."""

    folder: Path
    commit: str
    left: tuple[str, ...]
    """Files of the repository that were not fetched."""


def lay_out(folder: Path, target: Path, *, licence: str | None = None) -> Probe:
    """Write the repository's files of the probe at `folder` to the new folder `target`.

    Raises CorruptProbe for an unsound probe, ExchangeError when the target exists.
    """
    if folder.is_file():
        raise ExchangeError(
            f"{folder} is one file of a probe; give the folder it lies in, with its {MANIFEST} and card", param="path"
        )
    probe = load_probe(folder)
    check_files(folder, probe)
    body = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else None

    def write(path: Path) -> None:
        path.mkdir()
        for source in sorted(folder.rglob("*")):
            inside = source.relative_to(folder)
            if (
                source.is_file()
                and not source.is_symlink()
                and fetched(inside.as_posix(), suffixes=UPLOADED)
                and inside.name not in _OUR_OWN
            ):
                (path / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, path / inside)
        (path / README).write_text(model_card(probe.manifest, body=body, licence=licence), encoding="utf-8")

    write_aside(target, write)
    return probe


def push(folder: Path, repository: str, *, private: bool = False, licence: str | None = None) -> str:
    """Upload the probe at `folder` as a commit to `repository`, made if it is not there; returns the commit hash.

    Raises CorruptProbe for an unsound probe, ExchangeError with the hub's reason when it refuses.
    """
    with tempfile.TemporaryDirectory() as aside, _plain_errors(repository):
        layout = Path(aside) / "layout"
        probe = lay_out(folder, layout, licence=licence)
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=repository, folder_path=layout, commit_message=f"{probe.id}, {probe.manifest.concept}"
        ).oid


def pull(repository: str, out: Path, *, revision: str | None = None) -> Pulled:
    """Fetch the probe in `repository` at a branch, tag or commit (default: the newest) into `out/<name>/<version>/`.

    `card.html` is made from what came. Raises ExchangeError when the hub refuses, when a file name leads out of the
    folder, when there is no probe or the version is there already, CorruptProbe when what came is not what its
    manifest says. Nothing is left in `out` then.
    """
    with tempfile.TemporaryDirectory() as aside:
        with _plain_errors(repository):
            info = HfApi().model_info(repository, revision=revision)
            commit, names = info.sha or "", [file.rfilename for file in info.siblings or []]
            if not _COMMIT.fullmatch(commit):
                raise ExchangeError(f"the hub names no commit for {repository}; give one: {repository}@<40 hex digits>")
            wanted = [name for name in names if fetched(name) and name != SOURCE]
            missing = [name for name in (MANIFEST, TENSORS) if name not in wanted]
            if missing:
                raise ExchangeError(f"{repository} at {commit[:12]} has no {missing[0]}, so it holds no Tiller probe")
            literal = [re.sub(r"([*?\[])", r"[\1]", name) for name in wanted]
            snapshot_download(repository, revision=commit, allow_patterns=literal, local_dir=aside)
        folder = Path(aside)
        probe = load_probe(folder)
        check_files(folder, probe)

        def write(path: Path) -> None:
            path.mkdir()
            for name in wanted:
                source = folder / name
                if source.is_symlink() or not source.is_file():
                    raise ExchangeError(f"{repository}: '{name}' did not arrive as a plain file; pull again")
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, path / name)
            origin = {"repository": repository, "commit": commit}
            (path / SOURCE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
            write_html(path)

        target = out / probe.manifest.name / str(probe.manifest.version)
        write_aside(target, write)
    return Pulled(target, commit, tuple(name for name in names if name not in wanted))


def fetched(name: str, *, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a file of this name, relative to the repository, is one we take.

    Raises ExchangeError for a name that leads out of its folder: a repository that has one is no accident.
    """
    if not _inside(name):
        raise ExchangeError(f"the repository has a file named {name!r}, which leads out of its folder; do not use it")
    path = PurePosixPath(name)
    return path.suffix.lower() in suffixes and not any(part.startswith(".") for part in path.parts)


def check_files(folder: Path, probe: Probe) -> None:
    """Raise CorruptProbe for a file that the manifest has a hash of and that is absent or another."""
    for name, expected in sorted(_stated(folder).items()):
        path = folder / name
        if not _inside(name) or not path.is_file():
            raise CorruptProbe(f"{folder.name} lacks {name}, which the manifest of {probe.id} lists; fetch it again")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise CorruptProbe(
                    f"{name} does not have the SHA-256 that the manifest of {probe.id} states; fetch it again"
                )


def _stated(folder: Path) -> dict[str, str]:
    """The hashes that a folder's manifest states; none for a lone tensor file."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    files: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    return files


def _inside(name: str) -> bool:
    """Whether a relative name stays in its folder, on every system."""
    path = PurePosixPath(name)
    return bool(path.parts) and not (path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name)


@contextmanager
def _plain_errors(repository: str) -> Iterator[None]:
    """The hub's errors as one line each."""
    try:
        yield
    except HFValidationError as error:
        raise ExchangeError(f"'{repository}' is no repository name ({_line(error)}); expected owner/name") from None
    except OfflineModeIsEnabled:
        raise ExchangeError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it") from None
    except HfHubHTTPError as error:
        raise ExchangeError(
            f"the hub refuses {repository}: {_line(error)}. Check the name and revision, and log in (hf auth login) if "
            "it is private or to be written"
        ) from None
    except _CLIENT as error:
        raise ExchangeError(f"the hub cannot be reached ({type(error).__name__}); try again") from None
    except OSError as error:
        raise ExchangeError(f"{repository} cannot be stored here ({error.strerror or _line(error)})") from None


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
