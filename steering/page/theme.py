"""How plots look, and a figure as PNG or as SVG that takes its colours from the page around it.

A plot is drawn once, in the light colours. In the SVG each colour becomes `var(--name)`, so that the page's style
sheet decides, dark or light, on screen and in print; text stays text. Nothing is fetched, and the same figure gives
the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1f2a36",
    "muted": "#64707d",
    "line": "#dce1e7",
    "shade": "#eef2f6",
    "blue": "#2b6a99",
    "rust": "#c05f2c",
    "green": "#3f8457",
    "violet": "#80559b",
    "ochre": "#a67c00",
    "rose": "#b8476a",
}
DARK = {
    "paper": "#14191f",
    "ink": "#dfe5ec",
    "muted": "#94a0ad",
    "line": "#303943",
    "shade": "#1e252d",
    "blue": "#74b3e3",
    "rust": "#eb945f",
    "green": "#7cc495",
    "violet": "#bf95da",
    "ochre": "#d9b13b",
    "rose": "#ec86a6",
}
SERIES = ("blue", "rust", "green", "violet", "ochre", "rose")
MARKERS = ("o", "s", "^", "D", "v", "P")

_DPI = 150
_LINK = "{http://www.w3.org/1999/xlink}href"
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "figure.facecolor": LIGHT["paper"],
    "savefig.facecolor": LIGHT["paper"],
    "axes.facecolor": LIGHT["paper"],
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "grid.color": LIGHT["line"],
    "svg.fonttype": "none",
    "svg.hashsalt": "tiller card",
}


def colour(index: int) -> str:
    """The colour of the n-th series; they repeat after six, the markers with them."""
    return LIGHT[SERIES[index % len(SERIES)]]


def marker(index: int) -> str:
    """The mark of the n-th series, so that colour is never the only difference."""
    return MARKERS[index % len(MARKERS)]


def label(name: str) -> str:
    """A name as a legend shows it: no formulas, no control characters (an SVG holds none), none hidden by its
    underscore, none wider than the plot.
    """
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    short = name if len(name) <= 28 else f"{name[:27]}…"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")


def png(draw: Callable[[], Figure], path: Path) -> None:
    """Draw and write as PNG on white, 750 pixels wide."""
    with _styled():
        figure = draw()
        figure.set_dpi(_DPI)
        buffer = BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    path.write_bytes(buffer.getvalue())


def svg(draw: Callable[[], Figure], *, name: str, alt: str) -> str:
    """Draw and return an `<svg>` element that reads as `alt`; `name` keeps its ids apart from those of other plots."""
    with _styled():
        buffer = StringIO()
        FigureCanvasSVG(draw()).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(buffer.getvalue())
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt}
    for parent in root.iter():
        for child in [child for child in parent if child.tag.rpartition("}")[2] in ("metadata", "style")]:
            parent.remove(child)
        parent.tag = parent.tag.rpartition("}")[2]
        if parent.tag == "g":
            parent.attrib.pop("id", None)  # names of groups, which nothing refers to
        parent.attrib = {_plain_key(key): _value(key, value, name) for key, value in parent.attrib.items()}
        parent.tail = None
    return ElementTree.tostring(root, encoding="unicode")


def _styled() -> AbstractContextManager[None]:
    """Figures made and written inside look as above; nothing is left set."""
    return mpl.rc_context(_RC)  # type: ignore[arg-type]


def _plain_key(key: str) -> str:
    return "href" if key == _LINK else key


def _value(key: str, value: str, name: str) -> str:
    """Ids and what refers to them get the plot's name in front; colours and fonts become the page's."""
    if key == "id":
        return f"{name}-{value}"
    if key == _LINK:
        return value.replace("#", f"#{name}-", 1)
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-", 1)
    if key == "style":
        value = re.sub(r"'DejaVu Sans'", "system-ui, sans-serif", value)
        for variable, hexadecimal in LIGHT.items():
            value = value.replace(hexadecimal, f"var(--{variable})")
    return value
