"""A text while it is being written: one row's tokens, its text as far as it is certain, and how it ends.

Text is decoded piece by piece, each behind a few tokens that came before it: some tokenizers drop a leading space, and
one character may be spread over several tokens. A piece is certain when no later token can change it; what might yet
become a stop string is held back.
"""

from __future__ import annotations

from torch import Tensor

from steering.models import LanguageModel
from steering.report import SteeringReport
from steering.requests import Completion, Request, TokenLogprob, token_logprobs

_BEHIND = 8
"""Prompt tokens the first piece is decoded behind."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Writing:
    """One row, from its prompt to its completion."""

    def __init__(self, lm: LanguageModel, request: Request, prompt: list[int]) -> None:
        self.request = request
        self.prompt = prompt
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob | None] = []
        self._alternatives = request.logprobs or 0
        self._tokenizer = lm.tokenizer
        ends = () if request.sampling.ignore_eos else end_tokens(lm)
        self._ends = frozenset((*ends, *request.sampling.stop_ids))
        self._tokens = prompt[-_BEHIND:]
        self._from, self._read = 0, len(self._tokens)
        self._text = ""
        self._told = 0

    def read_prompt(self, logits: Tensor) -> None:
        """Note what was thought of the next prompt tokens, from float32 logits (n, vocab) of the tokens before them."""
        if not self.prompt_logprobs:
            self.prompt_logprobs.append(None)
        done = len(self.prompt_logprobs)
        self.prompt_logprobs += token_logprobs(logits, self.prompt[done : done + len(logits)], self._alternatives)

    def take(self, token: int, logits: Tensor) -> None:
        """Append the next token, which was drawn from float32 logits (vocab,); the row may end with it."""
        assert self.finish_reason is None, "the row has ended"
        if self.request.logprobs is not None:
            self.logprobs += token_logprobs(logits.unsqueeze(0), [token], self._alternatives)
        self.token_ids.append(token)
        sampling = self.request.sampling
        if token in self._ends:  # no part of the text
            self.finish_reason = "stop"
            return
        self._tokens.append(token)
        if sampling.stop and self._stopped():
            self.finish_reason = "stop"
        elif len(self.token_ids) >= sampling.max_tokens:
            self.finish_reason = "length"

    def news(self) -> str:
        """The text that has become certain since the last call; all that is left once the row has ended."""
        if self.finish_reason is None:
            self._grow()
            certain = len(self._text) - self._held_back()
        else:
            self._finish()
            certain = len(self._text)
        piece = self._text[self._told : certain]
        self._told = max(self._told, certain)
        return piece

    def complete(self, report: SteeringReport | None) -> Completion:
        """The row as its caller gets it."""
        self._finish()
        wanted = self.request.logprobs is not None
        return Completion(
            text=self._text,
            token_ids=self.token_ids,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.prompt),
            steering=report,
            logprobs=self.logprobs if wanted else None,
            prompt_logprobs=self.prompt_logprobs if self.request.echo else None,
        )

    def _finish(self) -> None:
        """Decode what is left, and cut before the first stop string."""
        if self._read < len(self._tokens):
            self._grow(whole=True)
        found = self._first_stop()
        if found >= 0:
            self._text = self._text[:found]

    def _stopped(self) -> bool:
        self._grow()
        return self._first_stop() >= 0

    def _first_stop(self) -> int:
        """Where the first stop string begins; -1 when there is none. Text that has been told holds none."""
        places = (self._text.find(stop, self._told) for stop in self.request.sampling.stop)
        return min((at for at in places if at >= 0), default=-1)

    def _held_back(self) -> int:
        """Characters at the end that a stop string may begin with."""
        return max(
            (
                size
                for stop in self.request.sampling.stop
                for size in range(min(len(stop), len(self._text)), 0, -1)
                if self._text.endswith(stop[:size])
            ),
            default=0,
        )

    def _grow(self, *, whole: bool = False) -> None:
        """Decode the tokens that have not been read yet, unless their last character is unfinished."""
        before, now = self._decode(self._tokens[self._from : self._read]), self._decode(self._tokens[self._from :])
        if not now.startswith(before):  # a character that was unfinished has been finished
            before = before.rstrip(_UNFINISHED)
        if len(now) > len(before) and (whole or not now.endswith(_UNFINISHED)):
            self._text += now[len(before) :]
            self._from, self._read = self._read, len(self._tokens)

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def end_tokens(lm: LanguageModel) -> frozenset[int]:
    """Every token id that ends a text, from the generation config and the tokenizer."""
    listed = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(token for token in [*ids, lm.tokenizer.eos_token_id] if token is not None)
