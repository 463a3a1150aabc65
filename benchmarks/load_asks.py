"""What the clients of `benchmarks/load.py` ask, and how an answer is read back.

A fixed set: every way of steering on every route, streamed and not. Greedy, so that a request has one answer, which is
the one it has when it runs alone.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

PROMPTS = (
    "The weather in spring is",
    "Once upon a time there was a lighthouse, and in it",
    "My neighbour told me that",
    "We went to the market and bought",
)
ROUTES = ("/generate", "/v1/completions", "/v1/chat/completions")
NEAR = 1e-3
"""Of probabilities: batches of different sizes round differently."""


@dataclass(frozen=True)
class Ask:
    """One request of the fixed set."""

    name: str
    route: str
    body: dict[str, Any]

    @property
    def streamed(self) -> bool:
        """Whether its answer comes token by token."""
        return bool(self.body.get("stream"))

    @property
    def whole(self) -> Ask:
        """The same, answered in one piece."""
        return Ask(self.name, self.route, {name: value for name, value in self.body.items() if name != "stream"})


@dataclass(frozen=True)
class Bad:
    """A request that must be refused, and how."""

    name: str
    method: str
    route: str
    content: bytes
    status: int
    code: str


class Unexpected(Exception):
    """A reply that is neither the answer nor a correct refusal."""


def asks(probes: Sequence[str], *, tokens: int) -> list[Ask]:
    """The fixed set, with one or two of `probes` and at most `tokens` new tokens a row."""
    first, last = probes[0], probes[-1]
    low, high = {"probe": first, "upper": 0.2}, {"probe": last, "lower": 0.7}
    steerings: dict[str, dict[str, Any] | None] = {
        "none": None,
        first: {"constraints": [low]},
        last: {"constraints": [high]},
        "both": {"constraints": [low, high], "on_infeasible": "least_squares"},
        "monitor": {"constraints": [low], "mode": "monitor"},
        "twins": {"constraints": [high], "baseline": True},
        "tokens": {"constraints": [low], "report": "tokens"},
    }
    found = []
    for at, ((name, steering), route, stream) in enumerate(product(steerings.items(), ROUTES, (False, True))):
        prompt = PROMPTS[at % len(PROMPTS)]
        body: dict[str, Any] = {"max_tokens": tokens // 4 + at * 7 % (3 * tokens // 4), "temperature": 0}
        body |= {"messages": [{"role": "user", "content": prompt}]} if "chat" in route else {"prompt": prompt}
        body |= {} if steering is None else {"steering": steering}
        body |= {"stream": True} if stream else {}
        found.append(Ask(f"{name} {route}{' streamed' if stream else ''}", route, body))
    return found


def bad_ones(*, max_body_bytes: int) -> list[Bad]:
    """One of each kind of mistake."""

    def bad(
        name: str, body: Any, code: str, *, status: int = 400, route: str = "/generate", method: str = "POST"
    ) -> Bad:
        return Bad(name, method, route, body if isinstance(body, bytes) else json.dumps(body).encode(), status, code)

    probe = {"constraints": [{"probe": "no-such-probe"}]}
    return [
        bad("no prompt", {"max_tokens": 3}, "invalid_request"),
        bad("blank prompt", {"prompt": "  "}, "invalid_request", route="/v1/completions"),
        bad("no JSON", b'{"prompt": ', "invalid_json"),
        bad("a typing error", {"prompt": "a", "temprature": 1}, "invalid_request"),
        bad("a wrong type", {"prompt": "a", "stream": True, "max_tokens": "5"}, "invalid_request"),
        bad("too long", {"prompt": "a b " * 3000}, "context_length_exceeded"),
        bad("unknown probe", {"prompt": "a", "stream": True, "steering": probe}, "probe_not_found", status=404),
        bad("another model", {"prompt": "a", "model": "m"}, "model_not_found", status=404, route="/v1/completions"),
        bad("no time", {"prompt": "a", "timeout": 1e-9}, "deadline_exceeded", status=504),
        bad("too large", b"x" * (max_body_bytes + 1), "body_too_large", status=413),
        bad("no route", {}, "route_not_found", status=404, route="/nothing"),
        bad("a wrong method", {}, "method_not_allowed", status=405, method="PUT"),
    ]


def refusal_code(status: int, document: Any) -> str:
    """The code of a refusal. Raises Unexpected when it has not the one shape."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        raise Unexpected(f"status {status} without an error of the one shape")
    return str(error["code"])


def whole_choices(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a reply in one piece, as `same` compares them."""
    return [
        _choice(choice, choice["text"] if "text" in choice else choice["message"]["content"])
        for choice in document["choices"]
    ]


async def streamed_choices(lines: AsyncIterator[str], *, leave_after: int | None = None) -> list[dict[str, Any]] | None:
    """The choices of a stream, put together; None when its reader left after so many chunks.

    Raises Unexpected for an error in the stream, and for one that ends too early.
    """
    texts: dict[int, str] = {}
    last: dict[int, dict[str, Any]] = {}
    chunks, ended = 0, False
    async for line in lines:
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            ended = True
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise Unexpected(f"in the stream: {refusal_code(200, chunk)}")
        chunks += 1
        if leave_after is not None and chunks >= leave_after:
            return None
        for choice in chunk["choices"]:
            index = choice["index"]
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            texts[index] = texts.get(index, "") + text
            if choice["finish_reason"] is not None:
                last[index] = choice
    if not ended:
        raise Unexpected("a stream without an end")
    if set(texts) != set(last):
        raise Unexpected("a stream in which a choice has no end")
    return [_choice(last[index], texts[index]) for index in sorted(texts)]


def _choice(choice: dict[str, Any], text: str) -> dict[str, Any]:
    steering = choice.get("steering")
    probes = None if steering is None else steering["probes"]
    return {"text": text, **{name: choice[name] for name in ("index", "finish_reason", "baseline")}, "probes": probes}


def difference(answer: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]]) -> str | None:
    """Where an answer differs from the same request alone, if it does."""
    if len(answer) != len(alone):
        return f"{len(answer)} choices, alone {len(alone)}"
    for mine, other in zip(answer, alone, strict=True):
        for name in ("index", "text", "finish_reason", "baseline"):
            if mine[name] != other[name]:
                return f"{name} of choice {other['index']}"
        if (mine["probes"] is None) != (other["probes"] is None) or set(mine["probes"] or ()) != set(
            other["probes"] or ()
        ):
            return f"probes of choice {other['index']}"
        for probe, read in (mine["probes"] or {}).items():
            known = other["probes"][probe]
            if any(read[name] != known[name] for name in ("tokens", "violations")) or any(
                abs(read[name] - known[name]) > NEAR for name in ("max_pre", "max_post", "min_pre", "min_post")
            ):
                return f"what {probe} read in choice {other['index']}"
    return None
