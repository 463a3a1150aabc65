"""The gates that labelled texts pass before anything is fitted to them or measured on them.

Refused: no rows, empty texts, invalid Unicode, one class only, the same text twice, and the same text under two labels
(label noise). Repetitions and, up to a stated rate, contradictions may be left out instead; what was left out is
counted in a CorpusReport. Leakage between files is the business of `splits.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from probes.errors import CorpusError
from probes.texts.corpus import Corpus, CorpusReport, Row, name_rows, require_both_classes, text_key


@dataclass(frozen=True)
class Gates:
    """What may be left out rather than refused. Raises CorpusError for a rate that is none."""

    drop_duplicates: bool = False
    """Keep the first of equal texts."""
    max_label_noise: float = 0.0
    """Largest share of the different texts that may stand under two labels; all their rows are then left out."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_label_noise < 1.0:
            raise CorpusError(
                f"--max-label-noise {self.max_label_noise} is no rate; expected a number from 0 to below 1 "
                "such as 0.01",
                param="max_label_noise",
            )


@dataclass(frozen=True)
class Sifted:
    """What is left of the rows of one file."""

    rows: tuple[Row, ...]
    kept: tuple[int, ...]
    """Positions of `rows` in what was sifted."""
    duplicates: int
    contradictory: int
    joined: Mapping[str, str] = field(default_factory=dict)
    """Group -> the group it was put together with."""


def checked(corpus: Corpus, *, drop_duplicates: bool = False, max_label_noise: float = 0.0) -> Corpus:
    """`corpus`, fit for training or testing, with its report.

    Raises CorpusError as `sift`, and for one class only.
    """
    gates = Gates(drop_duplicates=drop_duplicates, max_label_noise=max_label_noise)
    sifted = sift(corpus.name, corpus.rows, [row.label for row in corpus.rows], gates=gates)
    kept = replace(corpus, rows=sifted.rows, joined=sifted.joined)
    require_both_classes(kept)
    return replace(kept, reports=(report_of(kept, sifted, texts=len(corpus)),))


def report_of(corpus: Corpus, sifted: Sifted, *, texts: int, unpaired: int = 0) -> CorpusReport:
    """The report of `corpus`, which came out of `sifted`."""
    return CorpusReport(
        name=corpus.name,
        texts=texts,
        counts=corpus.counts,
        duplicates=sifted.duplicates,
        contradictory=sifted.contradictory,
        unpaired=unpaired,
        joined_groups=len(sifted.joined),
    )


def sift(name: str, rows: Sequence[Row], labels: Sequence[Hashable], *, gates: Gates) -> Sifted:
    """The rows that may be used. `labels` is what two rows with one text must agree in (a label, a class, several).

    Groups that share a text are put together before one of the equal texts is left out, so that no split tears them
    apart. Raises CorpusError for no rows, empty or white-space texts, invalid Unicode, texts under two labels beyond
    `gates.max_label_noise`, and repeated texts unless `gates.drop_duplicates`.
    """
    if not rows:
        raise CorpusError(f"{name} has no rows; expected labelled texts, some hundreds of each class or more")
    _refuse_unreadable(name, rows)
    first: dict[str, int] = {}
    keys = [text_key(row.text) for row in rows]
    repeated: list[int] = []
    noisy: list[int] = []
    for at, key in enumerate(keys):
        earlier = first.setdefault(key, at)
        if earlier != at:
            (repeated if labels[earlier] == labels[at] else noisy).append(at)
    contradictory = {keys[at] for at in noisy}
    _refuse_noise(name, [rows[at].number for at in noisy], len(contradictory), of=len(first), gates=gates)
    repeated = [at for at in repeated if keys[at] not in contradictory]
    if repeated and not gates.drop_duplicates:
        raise CorpusError(
            f"{name}: {name_rows(rows[at].number for at in repeated)} a repetition of an earlier text (compared "
            "without case and spacing); repeated texts count several times and can leak between splits: remove them, "
            "or pass --drop-duplicates to keep the first of each"
        )
    kept = tuple(at for key, at in first.items() if key not in contradictory)
    groups, joined = _joined_groups([row.group for row in rows], keys)
    return Sifted(
        rows=tuple(rows[at] if rows[at].group == groups[at] else replace(rows[at], group=groups[at]) for at in kept),
        kept=kept,
        duplicates=len(repeated),
        contradictory=len(contradictory),
        joined=joined,
    )


def _refuse_unreadable(name: str, rows: Sequence[Row]) -> None:
    empty = [row.number for row in rows if not row.text or row.text.isspace()]
    if empty:
        raise CorpusError(
            f"{name}: {name_rows(empty)} empty or only white space; there is nothing to read a concept from: "
            "remove them"
        )
    broken = [row.number for row in rows if not _is_unicode(row.text)]
    if broken:
        raise CorpusError(
            f"{name}: {name_rows(broken)} not valid Unicode (half of a surrogate pair), which no tokenizer accepts; "
            "repair or remove them"
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_noise(name: str, numbers: Sequence[int], contradictory: int, *, of: int, gates: Gates) -> None:
    rate = contradictory / of
    if rate > gates.max_label_noise:
        raise CorpusError(
            f"{name}: {name_rows(numbers)} a repetition of an earlier text under the other label (compared without "
            f"case and spacing): {contradictory} of {of} different texts, a share of {rate:.3g} where "
            f"--max-label-noise allows {gates.max_label_noise:g}; a text cannot both show and lack the concept: settle "
            "these labels or remove the rows, or raise that share to leave all such texts out",
            param="max_label_noise",
        )


def _joined_groups(groups: Sequence[str | None], keys: Sequence[str]) -> tuple[list[str | None], dict[str, str]]:
    """Each row's group after groups that share a text were put together, and what was joined to what.

    A row without a group joins that of its text, where another row gives one. The name kept is the first of the
    alphabet, so that it depends on no order.
    """
    if all(group is None for group in groups):
        return list(groups), {}
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while parent.setdefault(group, group) != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    home: dict[str, str] = {}
    for group, key in zip(groups, keys, strict=True):
        if group is not None:
            low, high = sorted((root(group), root(home.setdefault(key, group))))
            parent[high] = low
    joined = {group: into for group in parent if (into := root(group)) != group}
    named = [home.get(key) if group is None else group for group, key in zip(groups, keys, strict=True)]
    return [None if group is None else root(group) for group in named], joined
