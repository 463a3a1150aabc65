"""The scorers by the names a spec or a command line knows them by.

alt-profanity-check      vader      spanish
detoxify:original        detoxify:unbiased@/path/to/checkpoint.ckpt        (original, unbiased, multilingual)
hf:ID-OR-FOLDER#LABEL    hf:ID@REVISION#LABEL
http://HOST:PORT/PATH    https://...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from steering.errors import InvalidRequest
from steering.scorers.base import Scorer
from steering.scorers.profanity import AltProfanity
from steering.scorers.spanish import Spanish
from steering.scorers.vader import Vader

SCORERS: dict[str, Callable[[], Scorer]] = {"alt-profanity-check": AltProfanity, "vader": Vader, "spanish": Spanish}
"""Name -> what makes the scorer, of those that need nothing but the name and no download."""

FORMS = ("detoxify:MODEL[@CHECKPOINT]", "hf:ID-OR-FOLDER#LABEL", "http://...")
"""How the others are named."""


def make_scorer(name: str) -> Scorer:
    """The scorer called `name`, loaded. Raises InvalidRequest for an unknown name, ModelError when it cannot load."""
    kind, colon, rest = name.partition(":")
    if name in SCORERS:
        return SCORERS[name]()
    if kind == "detoxify" and rest:
        return _detoxify(rest)
    if kind == "hf" and rest:
        return _classifier(rest)
    if kind in ("http", "https") and colon:
        from steering.scorers.remote import Remote

        return Remote(name)
    raise InvalidRequest(
        f"there is no scorer '{name}'; expected one of {', '.join([*SCORERS, *FORMS])}", param="scorer"
    )


def make_scorers(names: Sequence[str]) -> tuple[Scorer, ...]:
    """All of them, before anything is generated. Raises as `make_scorer`, and InvalidRequest for two of one name."""
    made = tuple(make_scorer(name) for name in names)
    called = [scorer.card.name for scorer in made]
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        raise InvalidRequest(f"two scorers are called '{twice[0]}'; give each once", param="scorer")
    return made


def _detoxify(rest: str) -> Scorer:
    from steering.scorers.detoxified import Detoxified

    model, given, path = rest.partition("@")
    return Detoxified(model, checkpoint=Path(path).expanduser() if given else None)


def _classifier(rest: str) -> Scorer:
    from steering.scorers.classifier import Classifier

    place, _, label = rest.partition("#")
    source, _, revision = (place, "", "") if Path(place).expanduser().is_dir() else place.partition("@")
    folder = Path(source).expanduser()
    return Classifier(str(folder) if folder.is_dir() else source, label=label or None, revision=revision or None)
