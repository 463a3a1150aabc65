"""From the text options of `tiller probe train` to what is trained: one concept, or several that share their texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from probes.errors import CorpusError, FitError
from probes.texts.concepts import read_concepts
from probes.texts.corpus import Corpus, combine
from probes.texts.labels import Columns
from probes.texts.pairs import PairColumns, read_pairs
from probes.texts.reading import read_texts
from probes.training.recipe import Parts, Recipe, arrange


@dataclass(frozen=True)
class TextOptions:
    """As given on the command line."""

    data: Path
    calibration: Path | None
    test: Sequence[Path]
    out_of_domain: Sequence[str]
    """NAME=FILE each."""
    pairs: Sequence[str]
    """NAME=FILE or NAME=FILE:WITH,WITHOUT each."""
    columns: Columns
    pair_columns: PairColumns
    label_columns: tuple[str, ...]
    each_class: bool
    drop_duplicates: bool
    max_label_noise: float
    drop_leaks: bool

    @property
    def several(self) -> bool:
        """Whether one probe per concept is asked for."""
        return self.each_class or bool(self.label_columns)

    def concepts(self, recipe: Recipe) -> list[tuple[Parts, Recipe]]:
        """What to train: `recipe` itself, or one of its kind per concept, named after it.

        Raises CorpusError as the readers do, and where options do not go together.
        """
        self._check()
        data = self._read(self.data)
        calibration = None if self.calibration is None else self._like(data, self.calibration)
        tests = [self._like(data, path) for path in self.test]
        elsewhere = _named_once(self.out_of_domain, flag="--ood", example="tweets=tweets.jsonl")
        couples = _named_once(self.pairs, flag="--pairs", example="rewritten=pairs.jsonl:toxic,neutral")
        others = {called: self._like(data, Path(rest), called) for called, rest in elsewhere.items()}
        pairs = {called: self._read_pairs(called, rest) for called, rest in couples.items()}
        made = []
        for name, own in data.items():
            parts = arrange(
                own,
                calibration=None if calibration is None else calibration[name],
                test=combine("test", [test[name] for test in tests]) if tests else None,
                out_of_domain={called: other[name] for called, other in others.items()},
                pairs=pairs,
                drop_leaks=self.drop_leaks,
                seed=recipe.seed,
            )
            made.append((parts, _for_concept(recipe, name) if self.several else recipe))
        _refuse_equal_names([own.name for _, own in made])
        return made

    def refuse_names_of_one(self, *names: str | None) -> None:
        """Raise CorpusError when several concepts are asked for and `names` of one concept's labels are given."""
        if self.several and any(name is not None for name in names):
            raise CorpusError(
                "--positive-is, --positive-label-name and --negative-label-name are of one concept; several take the "
                "names of their columns or classes: leave these options off",
                param="positive_is",
            )

    def refuse_beside_on_policy(self, recipe: Recipe) -> None:
        """Raise CorpusError or FitError for options that a look-ahead probe has no use for."""
        if self.several:
            raise CorpusError("a look-ahead probe has one concept; train each by itself", param="label_column")
        if self.pairs:
            raise CorpusError("--pairs is not available with --on-policy; leave it out", param="pairs")
        if self.calibration is not None:
            raise CorpusError(
                "--calibration is not available with --on-policy, which calibrates on states of its own continuations; "
                "leave it out",
                param="calibration",
            )
        if recipe.shard_dtype != "float32":
            raise FitError("--shard-dtype is not available with --on-policy; leave it out", param="shard_dtype")

    def _check(self) -> None:
        if self.each_class and self.label_columns:
            raise CorpusError("--each-class reads one column, --label-columns several; give one", param="each_class")
        if self.several and self.pairs:
            raise CorpusError("--pairs are of one concept; leave them off, or train that concept alone", param="pairs")

    def _read(self, path: Path, called: str | None = None) -> dict[str, Corpus]:
        """By concept; of a single concept, under no name."""
        if not self.several:
            corpus = read_texts(
                path,
                columns=self.columns,
                pair_columns=self.pair_columns,
                name=called,
                drop_duplicates=self.drop_duplicates,
                max_label_noise=self.max_label_noise,
            )
            return {"": corpus}
        found = read_concepts(
            path,
            columns=self.columns,
            label_columns=self.label_columns,
            drop_duplicates=self.drop_duplicates,
            max_label_noise=self.max_label_noise,
        )
        return {name: corpus.renamed(called) if called else corpus for name, corpus in found.items()}

    def _like(self, data: Mapping[str, Corpus], path: Path, called: str | None = None) -> dict[str, Corpus]:
        """The same concepts from another file."""
        found = self._read(path, called)
        if found.keys() != data.keys():
            odd = ", ".join(sorted(found.keys() ^ data.keys()))
            raise CorpusError(
                f"{path} and {self.data} have different classes (not in both: {odd}); every file must show the same "
                "ones: add texts of them, or leave the file out",
                param="label_column",
            )
        return found

    def _read_pairs(self, called: str, rest: str) -> Corpus:
        path, _, columns = rest.rpartition(":")
        named = "," in columns and bool(path)
        return read_pairs(
            Path(path if named else rest),
            columns=PairColumns.parse(columns) if named else self.pair_columns,
            name=called,
            drop_duplicates=self.drop_duplicates,
            max_label_noise=self.max_label_noise,
        )


def _for_concept(recipe: Recipe, name: str) -> Recipe:
    slug = re.sub(r"[^a-z0-9_]+", "-", name.casefold()).strip("-_")
    return replace(
        recipe,
        name=f"{recipe.name}-{slug}",
        concept=f"{recipe.concept}: {name}",
        positive_is=name,
        labels=(f"not {name}", name),
    )


def _refuse_equal_names(names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise CorpusError(
            f"several concepts would be called {', '.join(twice)}; rename these classes or columns so that they differ "
            "in letters and digits",
            param="label_column",
        )


def _named_once(texts: Sequence[str], *, flag: str, example: str) -> dict[str, str]:
    """NAME=FILE each -> file by name. Raises CorpusError for another shape, and for a name that stands twice."""
    found: dict[str, str] = {}
    for text in texts:
        called, rest = _named(text, flag=flag, example=example)
        if called in found:
            raise CorpusError(
                f"{flag} {called}=... is given twice; give each file a name of its own", param=flag.strip("-")
            )
        found[called] = rest
    return found


def _named(text: str, *, flag: str, example: str) -> tuple[str, str]:
    called, equals, rest = text.partition("=")
    if not equals or not called or not rest:
        raise CorpusError(f"{flag} {text} is not NAME=FILE; for example {flag} {example}", param=flag.strip("-"))
    return called, rest
