"""A card on disk: `card.md` with its plots as PNG, `card.html` alone, and `card.json` to make them again from."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from probes.card.content import PLOTS, page_of
from probes.card.model import Card, Extras, card_from_probe
from steering.artefact import content_sha256, load_probe
from steering.errors import CorruptProbe
from steering.page.markdown import to_markdown
from steering.page.theme import png
from steering.page.webpage import to_html

MARKDOWN = "card.md"
HTML = "card.html"
EXTRAS = "card.json"


def write_card(card: Card, folder: Path) -> None:
    """Write the card beside the artefact that is already saved in `folder`; plots it no longer has are removed."""
    page = page_of(card, content=content_sha256(load_probe(folder)))
    drawn = {picture.file for picture in page.pictures}
    for name in PLOTS - drawn:
        (folder / name).unlink(missing_ok=True)
    for picture in page.pictures:
        png(picture.draw, folder / picture.file)
    (folder / MARKDOWN).write_text(to_markdown(page), encoding="utf-8")
    (folder / HTML).write_text(to_html(page), encoding="utf-8")
    (folder / EXTRAS).write_text(card.extras.model_dump_json() + "\n", encoding="utf-8")


def write_html(folder: Path) -> None:
    """Make `card.html` of the artefact in `folder` anew: a page of our own, whoever the artefact comes from."""
    probe = load_probe(folder)
    page = page_of(card_from_probe(probe, read_extras(folder)), content=content_sha256(probe))
    (folder / HTML).write_text(to_html(page), encoding="utf-8")


def read_extras(folder: Path) -> Extras:
    """What `card.json` in `folder` tells beyond the manifest; nothing where there is no such file.

    Raises CorruptProbe when the file cannot be read.
    """
    path = folder / EXTRAS
    if not path.exists():
        return Extras()
    try:
        return Extras.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise CorruptProbe(
            f"{path} is not what a card is made from ({reason}); it is damaged or comes from another release: fetch it "
            "again, or remove it to make the card from the manifest alone"
        ) from None


def rerender(folder: Path) -> None:
    """Make the card of the artefact in `folder` again, from the artefact and its `card.json` alone.

    Raises UnknownProbe and CorruptProbe as `load_probe` and `read_extras` do.
    """
    write_card(card_from_probe(load_probe(folder), read_extras(folder)), folder)
