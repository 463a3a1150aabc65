"""What can go wrong offline. Every message says what was found, what was expected and the way out.

InvalidRequest (steering.errors)
├── ScreenError      a causal screen that would not say what it is meant to
├── CorpusError      labelled texts that cannot be trained or tested on
├── HarvestError     activations that cannot be taken, written or resumed
├── FitError         activations that no usable probe comes out of
└── ExchangeError    a file of another tool, or a hub's, that no probe can be made from or written to

Texts may be toxic or private: a message names them by row number, never by content.
"""

from __future__ import annotations

from steering.errors import InvalidRequest


class CorpusError(InvalidRequest):
    """Labelled texts that cannot be trained or tested on."""


class HarvestError(InvalidRequest):
    """Activations that cannot be taken, written or resumed."""


class FitError(InvalidRequest):
    """Activations from which no usable probe can be fitted or calibrated."""


class ScreenError(InvalidRequest):
    """A causal screen whose prompts, neutral text or bounds would make its figures mean nothing."""


class ExchangeError(InvalidRequest):
    """A file of another tool, or a hub's repository, that no probe can be made from or written to."""
