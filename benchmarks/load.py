"""python benchmarks/load.py: many clients, some that leave, some that err, too many, and a stopped server.

Server and clients are processes of their own and talk over 127.0.0.1. The model is a tiny random one; `--model
smollm2-135m-instruct` takes a real one. Five minutes of the first stage (`--minutes`, `--quick`: half a minute), then
some seconds for each of the others; `--only mixed,term` runs some.

mixed     64 clients (`--clients`) ask a fixed set of greedy requests: every route, streamed and not, unsteered, with
          each probe and both, monitored, with unsteered twins. 20% leave in the middle, 5% make a mistake. Bars: every
          answer is that of the same request alone (text, end, what the probes read); every mistake is refused as it
          should be; no request takes over a minute; afterwards no row runs or waits, no more files are open than
          before, no more threads than at 40% of the time or a full pool, memory has grown by at most 24 MB since then.
overload  Ten times as many clients as the server has room for (slots and queue); who is refused comes again when
          Retry-After says. Bars: refusals are 503 with Retry-After, 99% within a second; who is accepted is answered.
term      SIGTERM while 32 clients are served. Bars: whoever had asked before it is answered, in full; exit code 0.
kill      SIGKILL under the same load, while policies are stored and probes uploaded one after another and evaluations
          asked for. Bars: after a restart all that was acknowledged is there, and nothing is there in part.

Ends with one line of JSON; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_keeping import Keeping
from load_server import Sample, Server, make_tiny, watched
from rich.progress import Progress

GROWTH_MB = 24.0
REFUSAL_MS = 1000.0
SETTLED = 0.4
"""Share of the time after which pools and caches have their size"""
POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads asyncio adds to its pool as they are needed, and keeps"""
TERM_CLIENTS = 32
RACE = 0.2
"""Seconds before SIGTERM within which a request may not have reached the server yet"""
ROOM = {"--slots": "8", "--max-queue": "16", "--max-prompts": "8"}
"""Of the server that is overloaded"""


@dataclass(frozen=True)
class Plan:
    """How much to do."""

    flags: list[str]
    """That serve the model"""
    folder: Path
    tiny: Path | None
    """The tiny model, when it is that"""
    clients: int
    seconds: float
    short: float
    """Seconds of the stages besides the first"""
    tokens: int
    limit: float
    bar: Callable[[str, float, float], None]
    """Told the stage, and how much of it is done"""

    def job(self, server: Server, **fields: Any) -> dict[str, Any]:
        """What a client process is told."""
        common = {"port": server.port, "alone": str(self.folder / "alone.json"), "tokens": self.tokens}
        return common | {"limit": self.limit} | fields


class ClientProcess:
    """`benchmarks/load_client.py` at work."""

    def __init__(self, job: dict[str, Any], told: Callable[[int], None]) -> None:
        script = Path(__file__).with_name("load_client.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job))
        self._process.stdin.close()
        self._told, self._report = told, {}
        self.asking = threading.Event()
        """Set once the first requests have been answered"""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "report" in said:
                self._report = said["report"]
            else:
                self._told(said["done"])
                if said["done"]:
                    self.asking.set()
        self.asking.set()

    def report(self) -> dict[str, Any]:
        """What became of the requests, when it has ended."""
        self._thread.join()
        if self._process.wait() != 0 or not self._report:
            raise RuntimeError("the client process failed; its error stands above")
        return self._report


def ask(plan: Plan, server: Server, stage: str, **fields: Any) -> ClientProcess:
    """Start the clients of a stage."""
    began = time.monotonic()
    return ClientProcess(
        plan.job(server, **fields), lambda done: plan.bar(stage, time.monotonic() - began, fields["seconds"])
    )


def common_misses(report: dict[str, Any], *, cut: int) -> list[str]:
    """Failures, answers that differ, and connections that ended, of which `cut` are allowed."""
    counts = report["counts"]
    missed = [f"{counts['failed']} failed: {report['failures'][0]}"] if counts.get("failed") else []
    if counts.get("cut", 0) > cut:
        missed.append(f"{counts['cut']} connections ended without an answer: {report['cut'][0]}")
    if not counts.get("answered"):
        missed.append("nothing was answered")
    return missed


def mixed(plan: Plan) -> dict[str, Any]:
    """64 clients for five minutes."""
    with Server(plan.flags, folder=plan.folder) as server:
        ask(plan, server, "alone", clients=1, seconds=0.0).report()
        before = server.sample()
        clients = ask(plan, server, "mixed", clients=plan.clients, seconds=plan.seconds, leave=0.2, invalid=0.05)
        with watched(server) as samples:
            report = clients.report()
        ready = server.until_idle(seconds=10)
        after = _settled_files(server, before.files)
    settled = _median_from(samples, SETTLED, SETTLED + 0.2)
    row = {
        "stage": "mixed", "clients": plan.clients, "seconds": plan.seconds, **report,
        "running_after": ready["running"], "waiting_after": ready["waiting"],
        "files": [before.files, after.files],
        "threads": [before.threads, settled.threads, after.threads],
        "rss_mb": [round(sample.rss_mb, 1) for sample in (before, settled, _median_from(samples, 0.8, 1.0), after)],
    }  # fmt: skip
    growth = row["rss_mb"][2] - row["rss_mb"][1]
    missed = common_misses(report, cut=0)
    if report["counts"].get("refused"):
        missed.append(f"{report['counts']['refused']} refused, though there was room")
    if (ready["running"], ready["waiting"]) != (0, 0):
        missed.append(f"{ready['running']} rows still run and {ready['waiting']} wait")
    if after.files > before.files:
        missed.append(f"{after.files} files open, {before.files} before")
    if after.threads > max(settled.threads, before.threads + POOL):
        missed.append(
            f"{after.threads} threads, {settled.threads} at {SETTLED:.0%} of the time, {before.threads} before"
        )
    if growth > GROWTH_MB:
        missed.append(f"memory grew by {growth:.1f} MB > {GROWTH_MB:g}")
    return row | {"growth_mb": round(growth, 1), "bars_missed": missed}


def _median_from(samples: list[Sample], first: float, last: float) -> Sample:
    """The medians over a part of the time; threads are the most there were."""
    part = samples[int(first * len(samples)) : max(int(last * len(samples)), int(first * len(samples)) + 1)]
    return Sample(
        part[-1].at,
        statistics.median(sample.rss_mb for sample in part),
        max(sample.threads for sample in part),
        round(statistics.median(sample.files for sample in part)),
    )


def _settled_files(server: Server, files: int) -> Sample:
    """The process once it has closed what its clients left, or after ten seconds."""
    for _ in range(100):
        if server.sample().files <= files:
            break
        time.sleep(0.1)
    return server.sample()


def overload(plan: Plan) -> dict[str, Any]:
    """Ten times capacity."""
    room = int(ROOM["--slots"]) + int(ROOM["--max-queue"])
    flags = [word for pair in ROOM.items() for word in pair]
    with Server([*plan.flags, *flags], folder=plan.folder) as server:
        report = ask(plan, server, "overload", clients=10 * room, seconds=plan.short).report()
        ready = server.until_idle(seconds=10)
    missed = common_misses(report, cut=0)
    if not report["counts"].get("refused"):
        missed.append("nobody was refused")
    elif report["refused_ms"]["p99"] > REFUSAL_MS:
        missed.append(f"p99 of the refusals {report['refused_ms']['p99']} ms > {REFUSAL_MS:g}")
    if (ready["running"], ready["waiting"]) != (0, 0):
        missed.append(f"{ready['running']} rows still run and {ready['waiting']} wait")
    return {"stage": "overload", "clients": 10 * room, "room": room, **report, "bars_missed": missed}


def term(plan: Plan) -> dict[str, Any]:
    """SIGTERM under load."""
    with Server(plan.flags, folder=plan.folder) as server:
        clients = ask(plan, server, "term", clients=TERM_CLIENTS, seconds=plan.short + 2)
        clients.asking.wait()
        time.sleep(plan.short / 2)
        sent = time.time()
        server.terminate()
        code = server.process.wait(120)
        took = time.time() - sent
        report = clients.report()
    lost = [cut for cut in report["cut"] if cut["began"] < sent - RACE]
    late = [cut["began"] - sent for cut in report["cut"]]
    missed = common_misses(report, cut=len(report["cut"]))
    if lost:
        missed.append(f"{len(lost)} requests lost: {lost[0]}")
    if code != 0:
        missed.append(f"exit code {code}")
    report["cut"] = {"count": len(late), "earliest_after_sigterm": round(min(late, default=0.0), 3)}
    return {
        "stage": "term", "clients": TERM_CLIENTS, **report,
        "exit_code": code, "drained_in_seconds": round(took, 2), "lost": len(lost), "bars_missed": missed,
    }  # fmt: skip


def kill(plan: Plan) -> dict[str, Any]:
    """SIGKILL under load, and a restart."""
    with Server(plan.flags, folder=plan.folder) as server:
        clients = ask(plan, server, "kill", clients=TERM_CLIENTS, seconds=plan.limit)
        clients.asking.wait()
        with Keeping(server, model=plan.tiny) as keeping:
            time.sleep(plan.short / 2)
            keeping.asked.wait(plan.limit)
            server.process.kill()
        server.process.wait()
        report = clients.report()
    with Server(plan.flags, folder=plan.folder, port=server.port) as restarted:
        assert restarted.port == server.port
        missed = keeping.missing()
    missed += [f"none of the {kind} was kept {keeping.refusal}" for kind, count in keeping.counts.items() if not count]
    row = {"stage": "kill", "kept": keeping.counts, "answered": report["counts"].get("answered", 0)}
    return row | {"bars_missed": missed}


STAGES: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "mixed": mixed,
    "overload": overload,
    "term": term,
    "kill": kill,
}


def measured(asked: argparse.Namespace, folder: Path, progress: Progress) -> Iterator[dict[str, Any]]:
    """Every stage asked for."""
    tiny = asked.model == "tiny"
    flags = make_tiny(folder) if tiny else ["--model", asked.model]
    tasks: dict[str, Any] = {}

    def bar(stage: str, done: float, total: float) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total or None)
        progress.update(tasks[stage], completed=min(done, total))

    plan = Plan(
        flags=[*flags, "--threads", "1"],
        folder=folder,
        tiny=folder / "tiny" if tiny else None,
        clients=asked.clients,
        seconds=asked.seconds or (30.0 if asked.quick else 60.0 * asked.minutes),
        short=min(asked.seconds or 60.0, 8.0 if asked.quick else 20.0),
        tokens=48 if tiny else 24,
        limit=60.0 if tiny else 300.0,
        bar=bar,
    )
    for stage in asked.only.split(","):
        yield STAGES[stage](plan)


def main() -> int:
    """Run and report; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or what `tiller serve --model` takes")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the first stage")
    parser.add_argument("--seconds", type=float, help="of the first stage, in place of --minutes")
    parser.add_argument("--quick", action="store_true", help="30 seconds of the first stage, 8 of the others")
    parser.add_argument("--clients", type=int, default=64, help="in the first stage")
    parser.add_argument("--only", default=",".join(STAGES), help="which stages")
    asked = parser.parse_args()
    unknown = set(asked.only.split(",")) - set(STAGES)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        for row in measured(asked, Path(folder), progress):
            rows.append(row)
            progress.print(json.dumps(row, indent=1))
    short = [f"{row['stage']}: {missed}" for row in rows for missed in row["bars_missed"]]
    print(json.dumps({"model": asked.model, "rows": rows, "bars_missed": short}))  # noqa: T201
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
