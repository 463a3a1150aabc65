"""Spanish or English, by the small words of either language.

    score = es / (es + en),  es and en the numbers of stop-words of each language in the text

Words that both languages write alike (`a`, `he`, `me`, `no`, ...) are left out. It needs no training and no package,
tells these two languages apart and nothing else, and is blind to text without a single stop-word (NaN).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from steering.scorers.base import Score, Scorer, ScorerCard, unscored

_ENGLISH = """
about after all also an and any are as at be because been before being but by can could did do does down each for
from had has have her here him his how i if in into is it its just like more most my new not now of off on one
only or other our out over own she should so some such than that the their them then there these they this those
through to too under up us very was we were what when where which while who why will with would you your
"""
_SPANISH = """
al algo antes aquí así aunque cada como cómo con contra cuando cual de del desde donde dos durante e el él ella
ellas ellos en entre era es esa ese eso esta está estaba están este esto estos fue fueron ha había han hasta hay
la las le les lo los más mi mientras muy nada ni nos nosotros nuestra nuestro o otra otro para pero poco por
porque puede pues que qué quien se sea según ser si sí sido sin sobre son su sus también tan tanto te tiene
tienen todo todos tu tú un una uno unos usted vez y ya yo
"""
_STOPS = {"en": frozenset(_ENGLISH.split()), "es": frozenset(_SPANISH.split())}
_WORD = re.compile(r"[^\W\d_]+")


class Spanish(Scorer):
    """Share of Spanish among the stop-words of a text: 1 is Spanish, 0 is English, NaN when it has neither."""

    card = ScorerCard(
        name="spanish",
        family="stop-word counts",
        revision="1",
        trained_on=f"nothing: {len(_STOPS['es'])} Spanish and {len(_STOPS['en'])} English stop-words",
        higher_is="Spanish",
    )

    def judge(self, texts: Sequence[str]) -> list[Score]:
        return [_share(text) for text in texts]


def _share(text: str) -> Score:
    words = _WORD.findall(text.lower())
    spanish = sum(word in _STOPS["es"] for word in words)
    english = sum(word in _STOPS["en"] for word in words)
    if not spanish + english:
        return unscored("it has no stop-word of either language")
    return Score(spanish / (spanish + english))
