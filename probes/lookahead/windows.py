"""Windows and labels: what the tokens after a state turn out to be.

A state is the residual after the token at *offset* j was read (-1: the last prompt token, 0: the first new one), from
which token j + 1 is written. With w tokens of warning its window of horizon n is

    tokens j+1+w .. j+w+n          of the continuation, end-of-text left out

scored by the labeller after decoding by itself, and labelled 1 when the score is above the threshold. A window cut
short by the end of the text is labelled by what is there if that is at least n/2 tokens; otherwise the state has no
label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import FitError
from probes.lookahead.labeller import Labeller
from probes.lookahead.writing import Written

NONE = -1
"""Label of a state whose window is too short."""

Places = NDArray[np.int64]
"""(states, 2): which text, and the offset in it."""


@dataclass(frozen=True)
class Rule:
    """How a window becomes a label."""

    horizon: int = 10
    threshold: float = 0.5
    """A score above it is the concept."""
    quantile: float | None = None
    """In (0, 1): take this quantile of the scores of all windows without warning as the threshold instead."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise FitError(f"horizon is {self.horizon}; a window has at least one token (--horizon)", param="horizon")
        if not 0.0 < self.threshold < 1.0:
            raise FitError(
                f"threshold is {self.threshold}; expected a score between 0 and 1 (--window-threshold)",
                param="window_threshold",
            )
        if self.quantile is not None and not 0.0 < self.quantile < 1.0:
            raise FitError(
                f"quantile is {self.quantile}; expected a share between 0 and 1 (--window-quantile)",
                param="window_quantile",
            )


def window(new_ids: Sequence[int], offset: int, *, horizon: int, warning: int = 0) -> Sequence[int] | None:
    """The ids of one window, or None when fewer than half of `horizon` are there."""
    start = offset + 1 + warning
    found = new_ids[start : start + horizon]
    return found if 2 * len(found) >= horizon else None


def scores(
    texts: Sequence[Written], places: Places, labeller: Labeller, tokenizer: Any, *, horizon: int, warning: int = 0
) -> NDArray[np.float64]:
    """(states,) labeller scores of the windows at `places`; NaN where a window is too short."""
    windows = [
        window(texts[text].new_ids, offset, horizon=horizon, warning=warning) for text, offset in places.tolist()
    ]
    found = np.full(len(places), np.nan)
    there = [at for at, ids in enumerate(windows) if ids is not None]
    decoded = tokenizer.batch_decode(
        [list(windows[at] or ()) for at in there], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    found[there] = labeller.scores(decoded)
    return found


def labels(found: NDArray[np.float64], *, threshold: float) -> NDArray[np.int64]:
    """(states,) of 0, 1 and NONE, from scores with NaN."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(found), NONE, (found > threshold).astype(np.int64))


def threshold(found: NDArray[np.float64], rule: Rule) -> float:
    """The threshold in force: the rule's own, or the quantile of the scores it asks for."""
    return rule.threshold if rule.quantile is None else float(np.nanquantile(found, rule.quantile))


def choose_places(texts: Sequence[Written], *, cap: int, seed: int) -> Places:
    """At most `cap` states per text, drawn without replacement from all that some token follows; rising by text.

    Neighbouring states share most of their window, so a few of a text say nearly as much as all.
    """
    if cap < 1:
        raise FitError(f"cap is {cap}; at least one state of a continuation is needed (--states)", param="states")
    chosen = []
    for at, text in enumerate(texts):
        generator = np.random.default_rng([seed, text.prompt, text.continuation])
        offsets = np.arange(-1, len(text.new_ids) - 1)
        drawn = np.sort(generator.permutation(offsets)[:cap])
        chosen += [(at, int(offset)) for offset in drawn]
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)
