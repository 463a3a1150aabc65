"""What an engine tells whoever counts: one call per event, in the engine's thread."""

from __future__ import annotations

from steering.requests import Completion


class Observer:
    """Does nothing. Override what is of interest; every method must return at once and raise nothing."""

    def admitted(self, *, prompt_tokens: int, waited: float) -> None:
        """A row leaves the queue, `waited` seconds after it came; its prompt is read next."""

    def stepped(self, rows: int) -> None:
        """So many rows are about to be given their next token in one decoding step."""

    def first_token(self, seconds: float) -> None:
        """A row has its first token, so long after it was submitted."""

    def next_token(self, seconds: float) -> None:
        """A row has a later one, so long after the one before."""

    def finished(self, completion: Completion) -> None:
        """A row has been written to its end; its caller gets it next."""

    def failed(self, error: BaseException) -> None:
        """A row that waited or ran ends with an error."""

    def cancelled(self) -> None:
        """A row that waited or ran was taken back by its caller."""
