"""The exception tree. Every message says what was found, what was expected and the way out.

TillerError                     everything Tiller raises on purpose
├── InvalidRequest              a caller asked for something that cannot be done (`param` names the field)
│   ├── InvalidBounds           low > high, a probability outside [0, 1], NaN
│   ├── PromptTooLong           prompt + new tokens do not fit the model's context
│   └── UnsupportedSteering     a feature this build, this artefact or this model does not have
├── UnknownProbe                no such probe, version or layer
├── ProbeError                  a probe artefact that must not be used
│   ├── CorruptProbe            unreadable, truncated, wrong hash, NaN, unknown schema
│   └── ProbeMismatch           a sound probe, but of another model
├── ModelError                  the model cannot be fetched, loaded or steered
│   └── UnsupportedModel        no entry in the table of architectures
├── SteeringNotApplied          a plan was given and its edits did not happen; no text is returned
├── SelfTestFailed              the loaded model does not obey its hooks
├── DeadlineExceeded            an answer was not ready in the time its request gave it
└── EngineUnavailable           the engine is stopped, broken or full
    └── NotEnoughMemory         there was no memory for this request; others go on

HTTP status codes belong to `service/errors.py`; this module knows nothing of them.
"""

from __future__ import annotations


class TillerError(Exception):
    """Base of every error raised on purpose."""


class InvalidRequest(TillerError):
    """A request that cannot be carried out as asked.

    `param` is the dotted name of the offending field, as the caller wrote it.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidBounds(InvalidRequest):
    """Bounds that describe no region."""


class PromptTooLong(InvalidRequest):
    """Prompt and requested tokens exceed the context window."""


class UnsupportedSteering(InvalidRequest):
    """Steering that is well formed but cannot be applied here."""


class UnknownProbe(TillerError):
    """No probe of that name, version or layer."""


class ProbeError(TillerError):
    """A probe artefact that must not be used."""


class CorruptProbe(ProbeError):
    """An artefact that is damaged, incomplete or of an unknown schema."""


class ProbeMismatch(ProbeError):
    """A sound artefact that was fitted for another model."""


class ModelError(TillerError):
    """The model cannot be fetched, loaded or steered."""


class UnsupportedModel(ModelError):
    """A model type without an entry in the table of architectures."""


class SteeringNotApplied(TillerError):
    """Steering was asked for and did not happen; a quiet fall-back to unsteered text is never an answer."""


class SelfTestFailed(TillerError):
    """The loaded model did not obey its hooks; it must not serve."""


class DeadlineExceeded(TillerError):
    """An answer was not ready in the time its request gave it."""


class EngineUnavailable(TillerError):
    """The engine is stopped, has failed, or its queue is full.

    `retry_after` is the advised wait in seconds; None means that waiting will not help.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotEnoughMemory(EngineUnavailable):
    """There was no memory to read this request's prompt; what else runs goes on."""
