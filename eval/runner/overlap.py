"""No prompt may be something a probe was trained or tuned on: a figure on such a prompt is no evidence.

An artefact keeps no texts and no hash of each, so the files must be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.runner.errors import SpecError
from eval.runner.lines import KnownTexts
from eval.runner.prompts import Prompt

_LISTED = 20


def refuse_overlap(prompts: Sequence[Prompt], files: Sequence[Path]) -> dict[str, int]:
    """File name -> texts compared. Raises SpecError with the line numbers of the prompts that stand in a file."""
    compared = {}
    for path in files:
        texts = KnownTexts(path)
        compared[texts.name] = len(texts)
        found = [prompt for prompt in prompts if prompt.text in texts]
        if found:
            lines = ", ".join(f"{prompt.set} {prompt.line}" for prompt in found[:_LISTED])
            more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            raise SpecError(
                f"{len(found)} prompts stand in {path.name}, which a probe was trained or tuned on; figures on them "
                f"are no evidence. Lines: {lines}{more}. Name the file in the prompts' `exclude` to leave them out",
                param="prompts",
            )
    return compared
