"""The page as a value: a page of sections of blocks of marked words, which Markdown and HTML only put into their signs.

Words are plain strings; no string carries markup, so that a name with a star or an angle bracket in it stays what it
is in both forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Code:
    """An identifier, hash or command, shown as typed."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Strong:
    """Words that must not be missed."""

    text: str
    kind: ClassVar[str] = "strong"


@dataclass(frozen=True)
class Aside:
    """An interval or a unit beside a figure; smaller where the form allows it."""

    text: str
    kind: ClassVar[str] = "aside"


Words = tuple[str | Code | Strong | Aside, ...]


@dataclass(frozen=True)
class Paragraph:
    """One run of words."""

    words: Words
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Bullets:
    """A list without order."""

    items: tuple[Words, ...]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Statement:
    """One finding in words; `finding` colours it: it speaks for the probe, against it, or is not known."""

    finding: Literal["for", "against", "unknown"]
    words: Words


@dataclass(frozen=True)
class Findings:
    """What a reader in a hurry takes away."""

    items: tuple[Statement, ...]
    kind: ClassVar[str] = "findings"


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as the header has; the first column names the row, the others are figures.

    `align` is for the figures: right for plain numbers, left where some have an interval behind them. `stacked` puts
    what is aside under the figure where the form allows it, for tables of many columns.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Words, ...], ...]
    align: Literal["left", "right"] = "right"
    stacked: bool = False
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), "every row has a cell per column"


@dataclass(frozen=True, eq=False)
class Picture:
    """A plot: `file` beside the Markdown, drawn into the HTML."""

    file: str
    alt: str
    caption: Words
    draw: Callable[[], Figure]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Plots that stand side by side where there is room."""

    items: tuple[Picture, ...]
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Excerpt:
    """One text of several to compare."""

    label: Words
    text: str


@dataclass(frozen=True)
class Folded:
    """Texts of others under one line: hidden until a reader asks for them, and left out of the Markdown.

    They may be of any kind, offensive too, so nothing shows them by itself.
    """

    summary: Words
    lead: str
    """What all of them begin with"""
    items: tuple[Excerpt, ...]
    kind: ClassVar[str] = "folded"


Block = Paragraph | Bullets | Findings | Table | Pictures | Folded


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands under it; `key` is its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class Page:
    """The whole page."""

    title: str
    lede: Words
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> list[Picture]:
        """All plots, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [picture for block in blocks if isinstance(block, Pictures) for picture in block.items]
