"""The clients of `benchmarks/load.py`, a process of their own: so many on 127.0.0.1 for so long, and what they got.

Reads one JSON object from standard input, the fields of `Job`; writes `{"done": n}` as it goes and `{"report": ...}` at
the end. It ends by itself: after `seconds`, or `requests` of them, and what is under way then is waited for.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from load_asks import Ask, Bad, Unexpected, asks, bad_ones, difference, refusal_code, streamed_choices, whole_choices

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once; loading certificates for each client would take longer than the requests."""
_COME_AGAIN = {"engine_unavailable", "draining"}
_SHOWN = 20
"""Failures a report describes; it counts all of them."""


@dataclass(frozen=True)
class Job:
    """What to do."""

    port: int
    clients: int
    seconds: float
    alone: str
    """File of the answers of the fixed set alone; made first where there is none"""
    tokens: int = 48
    leave: float = 0.0
    """Share of requests whose client leaves in the middle"""
    invalid: float = 0.0
    requests: int = 1_000_000
    limit: float = 60.0
    """Seconds after which a request counts as hanging"""
    max_body_bytes: int = 1 << 20
    seed: int = 0


@dataclass
class Report:
    """What became of the requests."""

    counts: Counter[str] = field(default_factory=Counter)
    """`answered`, `left`, `invalid` (refused as it should be), `refused` (503, come again), `cut`, `failed`"""
    failures: list[str] = field(default_factory=list)
    cut: list[dict[str, Any]] = field(default_factory=list)
    """Connections that ended without an answer: when the request began (epoch), and whether a reply had begun"""
    answered_seconds: list[float] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)
    differing: Counter[str] = field(default_factory=Counter)
    """Requests of the fixed set that were answered otherwise than alone"""

    def fail(self, what: str) -> None:
        """Count a failure."""
        self.counts["failed"] += 1
        if len(self.failures) < _SHOWN:
            self.failures.append(what)

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "counts": dict(self.counts),
            "failures": self.failures,
            "cut": self.cut,
            "differing": dict(self.differing),
            "answered_ms": _quantiles(self.answered_seconds),
            "refused_ms": _quantiles(self.refused_seconds),
        }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {}
    at = {"p50": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))], "max": ordered[-1]}
    return {name: round(1e3 * value, 1) for name, value in at.items()}


class Clients:
    """All clients of a job."""

    def __init__(self, job: Job, fixed: list[Ask], alone: dict[str, Any]) -> None:
        self.report = Report()
        self._job, self._fixed, self._alone = job, fixed, alone
        self._bad = bad_ones(max_body_bytes=job.max_body_bytes)
        self._begun, self._gone = 0, False
        self._until = time.monotonic() + job.seconds

    async def run(self) -> None:
        """Until the time is over and everybody has been answered."""
        talking = asyncio.create_task(self._talk())
        await asyncio.gather(*(self._one(number) for number in range(self._job.clients)))
        talking.cancel()

    async def _talk(self) -> None:
        while True:
            _say({"done": sum(self.report.counts.values())})
            await asyncio.sleep(0.5)

    async def _one(self, number: int) -> None:
        """One client: one request after another. They come within a second, and not all in one moment."""
        await asyncio.sleep(number / self._job.clients)
        async with client_of(self._job) as http:
            await self._ask_again(http, random.Random(f"{self._job.seed} {number}"))

    async def _ask_again(self, http: httpx.AsyncClient, drawn: random.Random) -> None:
        job = self._job
        while time.monotonic() < self._until and self._begun < job.requests and not self._gone:
            self._begun += 1
            fate = drawn.random()
            if fate < job.invalid:
                await self._guarded(self._refused_for(http, drawn.choice(self._bad)), "invalid")
            elif fate < job.invalid + job.leave:
                ask = drawn.choice([ask for ask in self._fixed if ask.streamed == (drawn.random() < 0.8)])
                await self._guarded(self._left(http, ask, drawn), ask.name)
            else:
                ask = drawn.choice(self._fixed)
                wait = await self._guarded(self._answered(http, ask), ask.name)
                if wait is not None:
                    again = wait * drawn.uniform(1.0, 2.0)  # as the usual clients do, lest all come at once
                    await asyncio.sleep(min(again, max(0.0, self._until - time.monotonic())))

    async def _guarded(self, talk: Any, name: str) -> float | None:
        """Run one exchange; whatever it ends with is counted. Returns the seconds a refusal asks to wait."""
        began = time.time()
        try:
            async with asyncio.timeout(self._job.limit):
                wait: float | None = await talk
                return wait
        except TimeoutError:
            self.report.fail(f"{name}: no end within {self._job.limit:g} s")
        except Unexpected as error:
            self.report.fail(f"{name}: {error}")
        except httpx.TransportError as error:
            self.report.counts["cut"] += 1
            self.report.cut.append({"ask": name, "began": began, "error": type(error).__name__})
            self._gone = self._gone or isinstance(error, httpx.ConnectError)  # nobody listens any more
        return None

    async def _answered(self, http: httpx.AsyncClient, ask: Ask) -> float | None:
        began = time.perf_counter()
        async with http.stream("POST", ask.route, json=ask.body) as reply:
            if reply.status_code != 200:
                return self._turned_away(reply.status_code, json.loads(await reply.aread()), reply, began)
            if ask.streamed:
                choices = await streamed_choices(reply.aiter_lines())
            else:
                choices = whole_choices(json.loads(await reply.aread()))
        assert choices is not None
        differs = difference(choices, self._alone[ask.name])
        if differs:
            self.report.differing[ask.name] += 1
            raise Unexpected(f"answered otherwise than alone: {differs}")
        self.report.counts["answered"] += 1
        self.report.answered_seconds.append(time.perf_counter() - began)
        return None

    def _turned_away(self, status: int, document: Any, reply: httpx.Response, began: float) -> float:
        code, after = refusal_code(status, document), reply.headers.get("retry-after")
        if status != 503 or code not in _COME_AGAIN or after is None:
            raise Unexpected(f"refused with {status} {code}, retry-after {after}")
        self.report.counts["refused"] += 1
        self.report.refused_seconds.append(time.perf_counter() - began)
        return float(after)

    async def _left(self, http: httpx.AsyncClient, ask: Ask, drawn: random.Random) -> None:
        """Ask, and go away before the end: after some chunks, or after some milliseconds."""
        if not ask.streamed:
            try:
                async with asyncio.timeout(drawn.uniform(0.005, 0.2)):
                    await http.post(ask.route, json=ask.body)
            except TimeoutError:
                pass
            self.report.counts["left"] += 1
            return
        async with http.stream("POST", ask.route, json=ask.body) as reply:
            if reply.status_code != 200:
                self._turned_away(reply.status_code, json.loads(await reply.aread()), reply, time.perf_counter())
                return
            await streamed_choices(reply.aiter_lines(), leave_after=drawn.randint(1, 6))
        self.report.counts["left"] += 1

    async def _refused_for(self, http: httpx.AsyncClient, bad: Bad) -> None:
        headers = {"content-type": "application/json"}
        reply = await http.request(bad.method, bad.route, content=bad.content, headers=headers)
        code = refusal_code(reply.status_code, reply.json())
        if (reply.status_code, code) != (bad.status, bad.code):
            raise Unexpected(f"{bad.name}: {reply.status_code} {code}, expected {bad.status} {bad.code}")
        self.report.counts["invalid"] += 1


async def answers_alone(http: httpx.AsyncClient, fixed: list[Ask]) -> dict[str, Any]:
    """Every request of the fixed set by itself, in one piece."""
    found = {}
    for ask in fixed:
        reply = await http.post(ask.route, json=ask.whole.body, timeout=300)
        if reply.status_code != 200:
            raise Unexpected(f"{ask.name} alone: {reply.status_code} {reply.text}")
        found[ask.name] = whole_choices(reply.json())
    return found


async def work(job: Job) -> dict[str, Any]:
    """Do the job and report."""
    kept = Path(job.alone)
    async with client_of(job) as http:
        listed = (await http.get("/v1/steering/probes")).json()["data"]
        probes = [probe["id"] for probe in listed if not probe["uploaded"]]
        fixed = asks(probes, tokens=job.tokens)
        if not kept.exists():
            kept.write_text(json.dumps(await answers_alone(http, fixed)), encoding="utf-8")
    clients = Clients(job, fixed, json.loads(kept.read_text(encoding="utf-8")))
    await clients.run()
    return clients.report.summary()


def client_of(job: Job) -> httpx.AsyncClient:
    """One client, with connections of its own."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{job.port}", timeout=None, verify=_NO_TLS)


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


def main() -> int:
    """Read the job, do it, report it."""
    _say({"report": asyncio.run(work(Job(**json.load(sys.stdin))))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
