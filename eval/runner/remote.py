"""A running server writes: `POST /generate`, several requests at a time, the same way as any client.

What is written waits for live traffic (`priority: background`); what is only checked does not. A server with keys is
sent the one in $TILLER_API_KEY. A server that is full (503 or 429, with Retry-After) or for a moment away is asked
again, up to `patience` seconds; what is refused for a reason is not. An instruction goes in as text through the model's
chat template, so it needs the tokenizer of a model loaded here.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import httpx

from eval.runner.arms import RunArm
from eval.runner.errors import RunStopped, SpecError
from eval.runner.layers import ProbeFacts
from eval.runner.rows import Continuation, Row
from eval.runner.spec import Decoding
from eval.runner.writer import WriterFacts
from steering.controllers.prompt import instructed
from steering.errors import UnknownProbe
from steering.manifest import Default

KEY = "TILLER_API_KEY"
"""Environment variable of the key: on a command line others could read it."""
_WAIT = 0.5
"""Seconds before the first new attempt when the server does not say; doubled each time, up to `_LONGEST`."""
_LONGEST = 10.0


class HttpWriter:
    """Writes through the server at `url`. Raises RunStopped when nobody answers, SpecError when it is no Tiller."""

    def __init__(
        self,
        url: str,
        *,
        tokenizer: Any = None,
        concurrency: int = 8,
        patience: float = 60.0,
        timeout: float = 600.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._tokenizer = tokenizer
        self._patience = patience
        self._stopped = threading.Event()
        self._client = httpx.Client(base_url=self._url, timeout=timeout, transport=transport, headers=_key())
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="eval-http")
        try:
            found = self._ask("GET", "/v1/steering/capabilities")
            listed = self._ask("GET", "/v1/steering/probes")["data"]
            self._facts = WriterFacts("server", dict(found["model"]), str(found["version"]))
            self._probes = {entry["id"]: _probe(entry) for entry in listed}
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise SpecError(f"{url} answers, but not as a Tiller server ({error})", param="server") from None
        except BaseException:
            self.close()
            raise

    @property
    def facts(self) -> WriterFacts:
        """As the server says them."""
        return self._facts

    @property
    def probes(self) -> list[str]:
        """Ids of the probes it has loaded."""
        return list(self._probes)

    def probe(self, name: str) -> ProbeFacts:
        """Of the server's probes."""
        if name in self._probes:
            return self._probes[name]
        versions = [probe for probe in self._probes.values() if probe.id.partition("@")[0] == name]
        if not versions:
            raise UnknownProbe(f"there is no probe '{name}' on the server; it has: {', '.join(self._probes) or 'none'}")
        return max(versions, key=lambda probe: int(probe.id.partition("@")[2]))

    def manifests(self, names: Iterable[str]) -> dict[str, Any]:
        """Of none."""
        return {}

    def check(self, arms: Sequence[RunArm], rows: Sequence[Row], decoding: Decoding) -> None:
        """Have the server write two tokens under each arm: it refuses what it cannot do."""
        for arm in arms:
            row = Row(arm, rows[0].prompt, rows[0].sample, rows[0].seed)
            window = [held.generation[0] + 2 for held in arm.constraints if held.prompt == "none"]
            body = self._body(row, decoding) | {
                "priority": "live",
                "max_tokens": min(decoding.max_tokens, max([2, *window])),
            }
            try:
                self._ask("POST", "/generate", body)
            except SpecError as error:
                raise SpecError(f"arm '{arm.name}': {error}", param=error.param) from None

    def writing(self) -> AbstractContextManager[None]:
        """Nothing is held for it."""
        return nullcontext()

    def write(self, rows: Sequence[Row], decoding: Decoding) -> Iterator[Continuation]:
        """All at once, as many in flight as there are threads; the first failure takes back what has not begun."""
        self._stopped.clear()
        futures = [self._pool.submit(self._write, row, decoding) for row in rows]
        try:
            for future in futures:
                yield future.result()
        finally:
            self._stopped.set()
            for future in futures:
                future.cancel()

    def logprobs(self, pairs: Sequence[tuple[str, Sequence[int]]]) -> list[float]:
        """ln P(tokens | text) of each pair under the server's unsteered model, in nats; 0 for no tokens.

        Raises RunStopped for a server that steers what asks for no steering.
        """
        self._stopped.clear()
        heads = {text: self._pool.submit(self._tokenize, text) for text in dict.fromkeys(text for text, _ in pairs)}
        futures = [self._pool.submit(self._logprob, heads[text].result(), ids) for text, ids in pairs]
        try:
            return [future.result() for future in futures]
        finally:
            self._stopped.set()
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Let the connections go."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _write(self, row: Row, decoding: Decoding) -> Continuation:
        answer = self._ask("POST", "/generate", self._body(row, decoding))
        (choice,) = answer["choices"]
        report = choice["steering"]
        if choice["seed"] != row.seed or (row.arm.steered and not (report and report["applied"])):
            raise RunStopped(f"the server answered a row of arm '{row.arm.name}' with another seed or without steering")
        return Continuation(
            text=choice["text"],
            token_ids=list(choice["token_ids"]),
            finish_reason=choice["finish_reason"],
            prompt_tokens=answer["usage"]["prompt_tokens"],
            steering=_report(report) if report else None,
        )

    def _tokenize(self, text: str) -> list[int]:
        return list(self._ask("POST", "/tokenize", {"prompt": text})["tokens"])

    def _logprob(self, head: Sequence[int], ids: Sequence[int]) -> float:
        if not ids:
            return 0.0
        asked = {"prompt": [*head, *ids], "max_tokens": 0, "echo": True, "logprobs": 0, "priority": "background"}
        (choice,) = self._ask("POST", "/v1/completions", asked | {"steering": {"mode": "off"}})["choices"]
        if (choice.get("steering") or {}).get("applied"):
            raise RunStopped(
                f"the server at {self._url} steers what asks for no steering, so it cannot say how likely a text is "
                "without; give the spec the server's model as `model`"
            )
        found = choice["logprobs"]["token_logprobs"][-len(ids) :]
        if len(found) != len(ids) or None in found:
            raise RunStopped(f"the server at {self._url} gave {len(found)} log-probabilities for {len(ids)} tokens")
        return math.fsum(found)

    def _body(self, row: Row, decoding: Decoding) -> dict[str, Any]:
        settings = {
            name: value
            for name, value in decoding.model_dump(exclude={"seed"}).items()
            if name in ("max_tokens", "temperature") or value != Decoding.model_fields[name].default
        }
        body: dict[str, Any] = {
            "prompt": self._prompt(row),
            "seed": row.seed,
            "priority": "background",
            **settings,
        }
        held = [one.to_http() for one in row.arm.constraints]
        body["steering"] = {"constraints": held} if held else {"mode": "off"}  # a server may have a default policy
        return body

    def _prompt(self, row: Row) -> str:
        if row.arm.instruction is None:
            return row.prompt.text
        if self._tokenizer is None:
            raise SpecError(
                f"arm '{row.arm.name}' goes through the chat template, which needs the tokenizer: give the spec the "
                "server's model as `model` (a server's own jobs: tiller serve --jobs-load-model)",
                param="model",
            )
        ids = instructed(row.prompt.text, row.arm.instruction, tokenizer=self._tokenizer)
        text = str(self._tokenizer.decode(ids, skip_special_tokens=False))
        if tuple(self._tokenizer(text)["input_ids"]) != ids:
            raise SpecError(
                f"arm '{row.arm.name}': this tokenizer reads its own chat template back as other tokens, so an "
                "instruction cannot be sent as text; run the arm in process",
                param="arms",
            )
        return text

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON of a 200. Raises SpecError for a refusal, RunStopped when patience is at its end."""
        deadline, wait = time.monotonic() + self._patience, _WAIT
        while True:
            try:
                reply = self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                why, advised = f"does not answer ({type(error).__name__})", None
            else:
                if reply.status_code == 200:
                    answer: dict[str, Any] = reply.json()
                    return answer
                why, advised = self._refused(reply)
            pause = min(wait if advised is None else advised, _LONGEST)
            if time.monotonic() + pause > deadline or self._stopped.wait(pause):
                raise RunStopped(f"the server at {self._url} {why}, also after {self._patience:g} s of asking again")
            wait = min(2 * wait, _LONGEST)

    def _refused(self, reply: httpx.Response) -> tuple[str, float | None]:
        """Why it is worth asking again, and when. Raises SpecError when it is not."""
        try:
            said = reply.json()["error"]
            message, param = str(said["message"]), said.get("param")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, param = reply.text[:200], None
        if reply.status_code < 500 and reply.status_code != 429:  # which is a key that asks too often
            raise SpecError(f"the server refuses ({reply.status_code}): {message}", param=param)
        if reply.status_code not in (429, 502, 503, 504) or reply.headers.get("x-should-retry") == "false":
            raise RunStopped(f"the server at {self._url} fails ({reply.status_code}): {message}")
        advised = reply.headers.get("retry-after", "")
        return f"answers {reply.status_code} ({message})", float(advised) if advised.isdigit() else None


def _report(report: dict[str, Any]) -> dict[str, Any]:
    """As the library gives it: without what only a server has to say."""
    return {name: value for name, value in report.items() if name != "policy" and (name != "tokens" or value)}


def _key() -> dict[str, str]:
    """The header that shows the key, where there is one."""
    key = os.environ.get(KEY, "")
    if not key.isascii() or not key.isprintable():
        raise SpecError(f"${KEY} holds a letter that no key has; set it to the key alone", param="server")
    return {"authorization": f"Bearer {key}"} if key else {}


def _probe(entry: dict[str, Any]) -> ProbeFacts:
    return ProbeFacts(
        str(entry["id"]),
        str(entry["sha256"]),
        tuple(int(layer) for layer in entry["layers"]),
        Default.model_validate(entry["default"]),
    )
