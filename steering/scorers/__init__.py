"""External judges of text: what a continuation is scored by when a probe's own word is not enough.

They stand in the base because the causal screen of `probes` and the studies of `eval` both need them. What each one
runs on is imported when it is made, and comes with the extra that its error names.
"""

from __future__ import annotations

from steering.scorers.base import Score, Scorer, ScorerCard
from steering.scorers.profanity import AltProfanity
from steering.scorers.relation import Relation, relate
from steering.scorers.spanish import Spanish
from steering.scorers.table import FORMS, SCORERS, make_scorer, make_scorers
from steering.scorers.vader import Vader

__all__ = [
    "FORMS",
    "SCORERS",
    "AltProfanity",
    "Relation",
    "Score",
    "Scorer",
    "ScorerCard",
    "Spanish",
    "Vader",
    "make_scorer",
    "make_scorers",
    "relate",
]
