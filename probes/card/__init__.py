"""The card of a probe: one page that says what it is, how it was made, how well it does and what it does not do.

`model.py` holds what is known, `content.py` says it in words, tables and plots; `steering.page` only puts
the same page into their signs. `files.py` writes it beside an artefact: `card.md` with PNGs, `card.html` alone, and
`card.json` to make them again from. No text of any corpus appears.
"""

from probes.card.files import read_extras, rerender, write_card, write_html
from probes.card.model import Card, Extras, best_layer, card_from_probe

__all__ = ["Card", "Extras", "best_layer", "card_from_probe", "read_extras", "rerender", "write_card", "write_html"]
