"""What can go wrong with an evaluation, beside the errors of `steering`."""

from __future__ import annotations

from steering.errors import InvalidRequest, TillerError


class SpecError(InvalidRequest):
    """A spec, or a folder to resume in, that cannot be run as it stands; `param` is the dotted key."""


class RunStopped(TillerError):
    """A run that could not go on: a full disk, a server that went away. What is finished is kept."""
