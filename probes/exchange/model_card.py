"""The README.md of a probe's repository on the Hugging Face Hub: front matter for its search, then the probe's card.

`base_model` is set where the manifest names a repository of the Hub (`owner/name`), since the Hub refuses other words.
The licence is that of the repository, which only its owner can state; without a word it is `other`, named after the
licence of the data.
"""

from __future__ import annotations

import re

from huggingface_hub import ModelCardData

from steering.manifest import Manifest
from steering.probe import ranges

LIBRARY = "tiller"
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def model_card(manifest: Manifest, *, body: str | None, licence: str | None = None) -> str:
    """README.md as text. `body` is the probe's own card in Markdown; without one, a short one is made."""
    base = manifest.base_model
    other = licence is None
    data = ModelCardData(
        base_model=base.id if _REPOSITORY.fullmatch(base.id) else None,
        library_name=LIBRARY,
        license="other" if other else licence,
        license_name=_slug(manifest.dataset.licence) if other else None,
        model_name=manifest.id,
        tags=["steering", "linear-probe", "activation-steering", _slug(manifest.concept)],
    )
    return (
        f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{body or _short(manifest)}".rstrip() + "\n" + _use(manifest)
    )


def _short(manifest: Manifest) -> str:
    base = manifest.base_model
    lines = [
        f"# {manifest.id}",
        "",
        f"Reads **{manifest.concept}** from the residual stream of `{base.id}` ({base.model_type}, "
        f"{base.num_hidden_layers} layers of {base.hidden_size}). A high logit means: {manifest.positive_is}. Read at "
        f"layers {ranges(manifest.metrics)}.",
    ]
    if manifest.origin is not None:
        lines += ["", f"Imported from {manifest.origin.format}. What that format could not carry:", ""]
        lines += [f"- {what}" for what in manifest.origin.lost]
    return "\n".join(lines)


def _use(manifest: Manifest) -> str:
    return (
        "\n## Use\n\n"
        "```\n"
        "pip install 'tiller-lm[probes]'\n"
        "tiller probe pull <this repository>@<commit> --out probes\n"
        f"tiller serve --model {manifest.base_model.id} --probes probes\n"
        "```\n\n"
        "`pull` checks every hash before anything is written. No file here is a pickle, and none is run.\n"
    )


def _slug(text: str) -> str:
    """Lower-case letters, digits and single dashes, as the Hub wants of names and tags."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60] or "unknown"
