"""Toxicity by Detoxify (Hanu and Unitary 2020), through its own package: `original`, `unbiased`, `multilingual`.

Its three models are fine-tuned transformers, fetched on first use. On a machine without downloads give the checkpoint:
`detoxify:original@/path/toxic_original.ckpt`. Such a file names a model of the Hub for its config and tokenizer; lay
that model's config.json and tokenizer files in the checkpoint's folder and they are read from there instead. A local
checkpoint is read as tensors and plain values only, so no code in it is run.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steering.errors import InvalidRequest, ModelError
from steering.scorers.base import Score, Scorer, ScorerCard, judge_words

BATCH = 16
_UNINTENDED = "Civil Comments (Jigsaw 2019, unintended bias)"
TRAINED_ON = {
    "original": ("Jigsaw toxic comments (2018, Wikipedia)", ("jigsaw toxic",)),
    "unbiased": (_UNINTENDED, ("civil comments",)),
    "multilingual": (
        f"Jigsaw toxic comments (2018) and {_UNINTENDED}, in translation",
        ("jigsaw toxic", "civil comments"),
    ),
}
"""Model -> what it was trained on, in words and as manifests name it."""


class Detoxified(Scorer):
    """P(toxic) by one Detoxify model; texts beyond its 512 tokens are cut.

    Raises InvalidRequest for an unknown model, ModelError when the package, the download or the checkpoint fails.
    """

    def __init__(self, model: str = "original", *, checkpoint: Path | None = None) -> None:
        if model not in TRAINED_ON:
            raise InvalidRequest(
                f"Detoxify has no model '{model}'; expected one of {', '.join(TRAINED_ON)}", param="scorer"
            )
        try:
            import detoxify
        except ImportError as error:
            raise ModelError("the scorer detoxify is not installed; pip install 'tiller-lm[eval]'") from error
        name = f"detoxify:{model}"
        self._model = _fetch(detoxify, model) if checkpoint is None else _read(detoxify, name, checkpoint)
        if "toxicity" not in self._model.class_names:
            raise ModelError(f"the checkpoint of {name} has no class 'toxicity', only {self._model.class_names}")
        words, data = TRAINED_ON[model]
        package = version("detoxify")
        self.card = ScorerCard(
            name=name,
            family="fine-tuned transformer (Detoxify)",
            revision=package if checkpoint is None else f"{package}, checkpoint {_sha256(checkpoint)[:12]}",
            trained_on=words,
            higher_is="toxic",
            data=data,
        )

    def judge(self, texts: Sequence[str]) -> list[Score]:
        values: list[float] = []
        for start in range(0, len(texts), BATCH):
            found = self._model.predict(list(texts[start : start + BATCH]))["toxicity"]
            values += found if isinstance(found, list) else [found]  # a batch of one comes back as a bare number
        return judge_words(texts, values)


def _fetch(package: Any, model: str) -> Any:
    try:
        return package.Detoxify(model)
    except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError
        raise ModelError(
            f"Detoxify's model '{model}' cannot be fetched or loaded ({_first_line(error)}); check the connection, or "
            f"give a local checkpoint: detoxify:{model}@/path/to/checkpoint.ckpt"
        ) from error


def _read(package: Any, name: str, path: Path) -> Any:
    """A Detoxify of the checkpoint at `path`, as the package itself puts one together."""
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path} for {name}; give the path of the .ckpt file after '@'")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        args = dict(loaded["config"]["arch"]["args"])
        classes = loaded["config"]["dataset"]["args"]["classes"]
        weights = loaded["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path.name} is no Detoxify checkpoint ({_first_line(error)}); expected tensors and plain values, with "
            "config.arch.args, config.dataset.args.classes and state_dict"
        ) from error
    folder = path.parent
    if (folder / "config.json").is_file():
        args["model_type"] = str(folder)
    try:
        model, tokenizer = package.detoxify.get_model_and_tokenizer(**args, state_dict=weights)
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(
            f"the checkpoint of {name} was read, but not the config and tokenizer of '{args.get('model_type')}' that "
            f"it names ({_first_line(error)}); lay config.json and the tokenizer files of that model beside {path.name}"
        ) from error
    found = object.__new__(package.Detoxify)  # its __init__ would read the file again, and run what is in it
    found.model, found.tokenizer, found.device = model.eval(), tokenizer, "cpu"
    found.class_names = ["toxicity" if name == "toxic" else name for name in classes]
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
