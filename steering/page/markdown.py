"""The page as GitHub-flavoured Markdown, with its plots as files beside it."""

from __future__ import annotations

import re

from steering.page.document import (
    Aside,
    Bullets,
    Code,
    Findings,
    Folded,
    Page,
    Paragraph,
    Pictures,
    Strong,
    Table,
    Words,
)

Shown = Paragraph | Bullets | Findings | Table | Pictures
"""What Markdown shows: it cannot hide a text, so it leaves those out that are to be hidden."""

_SIGNS = re.compile(r"([\\`*_<>~&]|\](?=[(\[:]))")


def to_markdown(page: Page) -> str:
    """The whole page, one trailing newline."""
    parts = [f"# {_plain(page.title)}", _inline(page.lede)]
    for section in page.sections:
        shown = [block for block in section.blocks if not isinstance(block, Folded)]
        parts += [f"## {_plain(section.title)}", *(_block(block) for block in shown)]
    return "\n\n".join(parts) + "\n"


def _block(block: Shown) -> str:
    match block:
        case Paragraph(words):
            return _inline(words)
        case Bullets(items):
            return "\n".join(f"- {_inline(words)}" for words in items)
        case Findings(items):
            return "\n".join(f"- {_inline(statement.words)}" for statement in items)
        case Table(header, rows, align):
            rule = "---:" if align == "right" else "---"
            lines = [[_plain(name) for name in header], ["---", *[rule] * (len(header) - 1)]]
            lines += [[_inline(words) for words in row] for row in rows]
            return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        case Pictures(items):
            return "\n\n".join(
                f"![{_plain(picture.alt)}]({picture.file})\n\n{_inline(picture.caption)}" for picture in items
            )


def _cell(written: str) -> str:
    """A bar would end the cell, inside code too."""
    return written.replace("|", "\\|")


def _inline(words: Words) -> str:
    return "".join(_span(span) for span in words)


def _span(span: str | Code | Strong | Aside) -> str:
    match span:
        case str() | Aside():
            return _plain(span if isinstance(span, str) else span.text)
        case Strong(text):
            return f"**{_plain(text)}**"
        case Code(text):
            return _code(text)


def _plain(text: str) -> str:
    """Letters that would be read as markup, escaped; line breaks become spaces."""
    return _SIGNS.sub(r"\\\1", " ".join(text.splitlines()))


def _code(text: str) -> str:
    """Fenced by one backtick more than the longest run inside."""
    line = " ".join(text.splitlines())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"
