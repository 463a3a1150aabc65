"""What can go wrong offline. Every message says what was found, what was expected and the way out.

InvalidRequest (steering.errors)
├── CorpusError      labelled texts that cannot be trained or tested on
├── HarvestError     activations that cannot be taken, written or resumed
└── FitError         activations that no usable probe comes out of

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
