"""A scorer behind HTTP: any service that answers two requests at one address.

    GET  URL   -> {"name": "my-judge", "family": "...", "revision": "...", "trained_on": "...", "higher_is": "toxic",
                   "data": ["jigsaw toxic"]}                                                      ("data" may be absent)
    POST URL   {"texts": ["...", "..."]}
               -> {"scores": [0.12, null], "reasons": ["", "empty"]}                       ("reasons" may be absent)

Scores lie in [0, 1]; null is a text that cannot be scored. A service that is busy (429, 502, 503, 504) or out of reach
is asked again, up to `ATTEMPTS` times with a growing pause; any other answer, and any failure of the GET, is an error
at once. A token in the environment variable TILLER_SCORER_TOKEN is sent as `Authorization: Bearer`, and addresses with
a password are refused: specs and reports name their scorers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steering.errors import InvalidRequest, ModelError
from steering.scorers.base import Score, Scorer, ScorerCard, unscored

ATTEMPTS = 5
BATCH = 64
TOKEN = "TILLER_SCORER_TOKEN"
_BUSY = (429, 502, 503, 504)
_LONGEST_PAUSE = 30.0


_Answer = TypeVar("_Answer", bound=BaseModel)


class _Card(BaseModel):
    name: str = Field(min_length=1, pattern=r"^[^\s/\\]+$")
    family: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    trained_on: str = Field(min_length=1)
    higher_is: str = Field(min_length=1)
    data: tuple[str, ...] = ()


class _Scores(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    scores: list[float | None]
    reasons: list[str | None] | None = None


class Remote(Scorer):
    """The scorer that answers at `url`. Raises ModelError when it does not, or says what it must not."""

    def __init__(
        self,
        url: str,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: float = 60.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if _userinfo(url):
            raise InvalidRequest(
                f"the address of a scorer may hold no password, it stands in reports; put the token into {TOKEN}",
                param="scorer",
            )
        token = os.environ.get(TOKEN)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url, self._sleep = url, sleep
        self._client = httpx.Client(headers=headers, timeout=timeout, transport=transport)
        said = self._read(_Card, self._ask("GET", attempts=1))  # nothing has been generated yet: no use in waiting
        self.card = ScorerCard(**said.model_dump())

    def judge(self, texts: Sequence[str]) -> list[Score]:
        found: list[Score] = []
        for start in range(0, len(texts), BATCH):
            found += self._judge(list(texts[start : start + BATCH]))
        return found

    def _judge(self, texts: list[str]) -> list[Score]:
        answer = self._read(_Scores, self._ask("POST", {"texts": texts}))
        reasons = [""] * len(texts) if answer.reasons is None else answer.reasons
        if not len(answer.scores) == len(reasons) == len(texts):
            raise self._failure(f"gave {len(answer.scores)} scores and {len(reasons)} reasons for {len(texts)} texts")
        strange = [value for value in answer.scores if value is not None and not 0 <= value <= 1]
        if strange:
            raise self._failure(f"gave the score {strange[0]}, expected numbers from 0 to 1 or null")
        return [
            unscored(reason or "the service gave null") if value is None else Score(value)
            for value, reason in zip(answer.scores, reasons, strict=True)
        ]

    def _ask(self, method: str, body: dict[str, Any] | None = None, *, attempts: int = ATTEMPTS) -> httpx.Response:
        for attempt in range(1, attempts + 1):
            try:
                answer = self._client.request(method, self._url, json=body)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                problem, wait = f"cannot be reached ({error or type(error).__name__})", ""
            else:
                if answer.is_success:
                    return answer
                problem, wait = f"answered {method} with {answer.status_code}", answer.headers.get("Retry-After", "")
                if answer.status_code not in _BUSY:
                    raise self._failure(problem)  # its body may repeat the texts
            if attempt < attempts:
                self._sleep(min(_LONGEST_PAUSE, float(wait) if wait.isdigit() else 0.5 * 2**attempt))
        raise self._failure(f"{problem}{f', {attempts} times' if attempts > 1 else ''}")

    def _read(self, form: type[_Answer], answer: httpx.Response) -> _Answer:
        try:
            return form.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the body"
            raise self._failure(f"sent an answer that is not as documented ({field}: {first['msg']})") from None

    def _failure(self, problem: str) -> ModelError:
        return ModelError(
            f"the scorer at {self._url} {problem}; start the service, or correct its address. It must answer GET with "
            "its card and POST as in steering/scorers/remote.py"
        )


def _userinfo(url: str) -> bytes:
    try:
        return httpx.URL(url).userinfo
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"'{url}' is no address of a scorer: {error}", param="scorer") from None
