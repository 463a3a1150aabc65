"""Prompts from RealToxicityPrompts. The texts are often toxic: they are read, used and never written anywhere."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from steering.errors import InvalidRequest

RTP = Path("prompts/rtp_prompts.jsonl.gz")
TOXIC_ABOVE = 0.5
NEUTRAL_BELOW = 0.2


def read_rtp(data: Path, *, per_class: int) -> dict[str, list[str]]:
    """`per_class` prompts of Perspective toxicity above 0.5 ("toxic") and as many below 0.2 ("neutral"), in file order.

    Raises InvalidRequest when the file is absent or too small.
    """
    path = data / RTP
    if not path.is_file():
        raise InvalidRequest(
            f"there is no {RTP} under {data}; these prompts are toxic and so not shipped. Give the folder that holds "
            "them with --data (JSON lines with 'prompt' and the Perspective score 'toxicity', gzip)",
            param="data",
        )
    chosen: dict[str, list[str]] = {"toxic": [], "neutral": []}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            score = row["toxicity"]
            kind = "toxic" if score > TOXIC_ABOVE else "neutral" if score < NEUTRAL_BELOW else None
            if kind is not None and len(chosen[kind]) < per_class and row["prompt"].strip():
                chosen[kind].append(row["prompt"])
    short = {kind: len(rows) for kind, rows in chosen.items() if len(rows) < per_class}
    if short:
        raise InvalidRequest(f"{path.name} holds too few prompts: {short}, {per_class} of each are needed", param="n")
    return chosen
