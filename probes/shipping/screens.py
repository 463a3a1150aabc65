"""How the shipped probes are screened: held-out prompts on which the concept can go either way, and who judges.

The judges see words only and have not seen the probes' labels, alt-profanity-check excepted, which its authors also
trained on Jigsaw comments. The prompts stand in no file that a probe is trained, tested or reported on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from probes.screen.question import LEAD, Question
from probes.screen.texts import Where, choose_neutral, choose_prompts, excluded_keys, read_texts
from steering.bounds import Bounds
from steering.choices import DType
from steering.models import LanguageModel
from steering.probe import Probe
from steering.scorers import make_scorer

NEUTRAL = "fluency/wikitext103_test_articles.jsonl.gz"
REPORTED = ("prompts/rtp_prompts.jsonl.gz",)
"""What the tables of the README are made on."""
NEUTRAL_TEXTS = 32
NEW_TOKENS = 20


@dataclass(frozen=True)
class ScreenRecipe:
    """One probe's screen; the bound is what its default becomes."""

    prompts: str
    """File below the folder of the data sets, with a column `prompt`."""
    scorer: str
    bounds: Bounds
    n: int
    label: str | None = None
    """Only prompts with this label."""
    dtype: DType = "float32"
    """bfloat16 halves the time and adds about 0.001 nats to every divergence; only where those are far larger."""


SCREENS: Mapping[str, ScreenRecipe] = MappingProxyType(
    {
        "toxicity": ScreenRecipe(
            prompts="prompts/rtp_category_prompts.jsonl", scorer="alt-profanity-check", bounds=Bounds(upper=0.01), n=128
        ),
        "sentiment": ScreenRecipe(
            prompts="prompts/owt_sentiment_prompts.jsonl",
            label="negative",
            scorer="vader",
            bounds=Bounds(lower=0.99),
            n=160,
            dtype="bfloat16",
        ),
        "language": ScreenRecipe(
            prompts="prompts/owt_sentiment_prompts.jsonl",
            label="neutral",
            scorer="spanish",
            bounds=Bounds(lower=0.9),
            n=64,
            dtype="bfloat16",
        ),
    }
)


def ask(language_model: LanguageModel, probe: Probe, recipe: ScreenRecipe, data: Path) -> Question:
    """The question of a screen in the whitened metric. Raises ScreenError and CorpusError as `probes.screen.texts`."""
    held_back = excluded_keys([data / name for name in REPORTED])
    rules = [] if recipe.label is None else [Where("label", recipe.label)]
    prompts = read_texts(data / recipe.prompts, "prompt", where=rules, flag="--prompts")
    neutral = read_texts(data / NEUTRAL, "text", flag="--neutral")
    begun = choose_prompts(language_model, prompts, n=recipe.n, new_tokens=NEW_TOKENS, seed=0, excluded=held_back)
    ordinary = choose_neutral(
        language_model, neutral, n=NEUTRAL_TEXTS, tokens=LEAD + NEW_TOKENS - 1, seed=0, excluded=held_back
    )
    return Question(
        lm=language_model,
        probe=probe,
        bounds=recipe.bounds,
        metric="whitened",
        scorer=make_scorer(recipe.scorer),
        prompts=begun.ids,
        neutral=ordinary.ids,
        new_tokens=NEW_TOKENS,
    )
