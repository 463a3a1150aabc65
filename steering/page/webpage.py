"""The page as one HTML file: plots inline as SVG, no script, no network, light or dark as the reader's system is."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from steering.page.document import Page, Picture
from steering.page.theme import DARK, LIGHT, svg


def to_html(page: Page) -> str:
    """The whole page; every word of it is escaped by the template engine."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("page.html.jinja")
    return template.render(page=page, drawn=_drawn, light=LIGHT, dark=DARK)


def _drawn(picture: Picture) -> Markup:
    """The one string that is not escaped: an SVG made here, its label put in by an XML writer."""
    return Markup(svg(picture.draw, name=Path(picture.file).stem, alt=picture.alt))
