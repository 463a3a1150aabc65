"""`tiller demo`: the same prompts unsteered and steered, over HTTP, side by side, and every bound verified.

Each scene is asked twice with the same seed: in mode monitor (the probe reads, nothing is edited) and in mode enforce.
The demo fails unless monitoring edited nothing, every steered answer was steered, no stored value is outside its
bound, and the edits did change text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.demo.scenes import SCENES, Scene
from service.demo.server import DemoFailed, running_server
from steering.embedded import EMBEDDED, get_model

_DECODING = {"temperature": 0.7, "top_p": 0.9}


@dataclass(frozen=True)
class Pair:
    """One prompt's two continuations and what the probe read."""

    prompt: str
    unsteered: str
    steered: str
    natural: float
    """The probe's extreme probability when nothing is edited."""
    before: float
    """The same in the steered run, before each edit."""
    after: float
    """And on the stored values after them."""
    tokens: int
    edited: int
    violations: int
    dose: float


def run_demo(*, model: str, probes: Path | None, scenes: Sequence[Scene] = SCENES) -> int:
    """Run every scene against a server of its own and return 0. Raises DemoFailed, saying why, otherwise."""
    console = Console(highlight=False)
    if model in EMBEDDED:
        get_model(model, say=console.print)
    console.print(f"Starting a server for {model} on a free port of this machine ...")
    with console.status("loading the model") as status:

        def waiting(seconds: float) -> None:
            status.update(f"loading the model ({seconds:.0f} s)")

        with running_server(model=model, probes=probes, waiting=waiting) as client:
            _introduce(client, console)
            pairs: list[Pair] = []
            for scene in scenes:
                status.update(f"writing: {scene.title}")
                written = play(scene, client)
                console.print(_table(scene, written))
                pairs += written
            status.update("stopping the server")
    _conclude(pairs, console)
    return 0


def play(scene: Scene, client: httpx.Client) -> list[Pair]:
    """Ask for one scene and verify the answers. Raises DemoFailed when a promise was not kept."""
    ask = {"prompt": list(scene.prompts), "max_tokens": scene.max_tokens, "seed": scene.seed, **_DECODING}
    watched = _post(client, ask | {"steering": {"mode": "monitor", "constraints": [scene.constraint]}})
    steered = _post(client, ask | {"steering": {"mode": "enforce", "constraints": [scene.constraint]}})
    pairs = [_pair(scene, *row) for row in zip(scene.prompts, watched, steered, strict=True)]
    if not any(pair.edited for pair in pairs):
        raise DemoFailed(f"{scene.title}: no token had to be edited, so there is nothing to see; tighten the bound")
    if all(pair.steered == pair.unsteered for pair in pairs):
        raise DemoFailed(f"{scene.title}: tokens were edited but no text changed; the edits did not reach the output")
    return pairs


def _pair(scene: Scene, prompt: str, watched: Any, steered: Any) -> Pair:
    (seen,), (done,) = watched["steering"]["probes"].values(), steered["steering"]["probes"].values()
    if watched["steering"]["applied"] or seen["edited"]:
        raise DemoFailed(f"{scene.title}: the unsteered run of '{prompt}' was edited")
    if not steered["steering"]["applied"]:
        raise DemoFailed(f"{scene.title}: the server did not say that steering was applied to '{prompt}'")
    if done["violations"] or not done["promised"]:
        raise DemoFailed(f"{scene.title}: {done['violations']} tokens of '{prompt}' are outside {scene.rule}")
    extreme = "min" if scene.side == "lower" else "max"
    return Pair(
        prompt=prompt,
        unsteered=watched["text"],
        steered=steered["text"],
        natural=seen[f"{extreme}_pre"],
        before=done[f"{extreme}_pre"],
        after=done[f"{extreme}_post"],
        tokens=done["tokens"],
        edited=done["edited"],
        violations=done["violations"],
        dose=done["mean_dose"],
    )


def _post(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    reply = client.post("/generate", json=body)
    if reply.status_code != 200:
        raise DemoFailed(f"POST /generate answered {reply.status_code}: {reply.text}")
    choices: list[dict[str, Any]] = reply.json()["choices"]
    return choices


def _introduce(client: httpx.Client, console: Console) -> None:
    ready = client.get("/ready").json()
    probes = {probe["id"]: probe for probe in client.get("/v1/steering/probes").json()["data"]}
    console.print(
        f"[green]ready[/] at {client.base_url}: {ready['model']}, self-test passed at "
        f"{ready['self_test']['layers']} layers, {ready['self_test']['violations']} violations"
    )
    for probe_id, probe in probes.items():
        layers = probe["default"]["layers"]
        console.print(f"  probe [bold]{probe_id}[/]: reads '{escape(probe['positive_is'])}' at layers {layers}")
    console.print()


def _table(scene: Scene, pairs: Sequence[Pair]) -> Table:
    extreme = "lowest" if scene.side == "lower" else "highest"
    table = Table(
        title=f"{scene.title}: {scene.rule}",
        caption=f"P: {extreme} probability of '{scene.reads}' over all steered layers and tokens. {scene.note}",
        title_justify="left",
        caption_justify="left",
        show_lines=True,
        expand=True,
    )
    table.add_column("prompt", ratio=2)
    table.add_column("unsteered", ratio=3)
    table.add_column("steered", ratio=3)
    for pair in pairs:
        table.add_row(
            escape(pair.prompt),
            f"{_one_line(pair.unsteered)}\n[dim]P {_probability(pair.natural)}[/]",
            f"{_one_line(pair.steered)}\n[dim]P {_probability(pair.before)} before the edits,[/] "
            f"[bold]{_probability(pair.after)}[/] [dim]after; {pair.edited} of {pair.tokens} tokens edited, "
            f"mean dose {pair.dose:.3f}, {pair.violations} violations[/]",
        )
    return table


def _conclude(pairs: Sequence[Pair], console: Console) -> None:
    edited, tokens = sum(pair.edited for pair in pairs), sum(pair.tokens for pair in pairs)
    changed = sum(pair.steered != pair.unsteered for pair in pairs)
    console.print(
        f"\n[green]Verified:[/] {len(pairs)} steered answers, {edited} of {tokens} tokens edited, 0 stored values "
        f"outside a bound; {changed} of {len(pairs)} texts changed. The server was stopped and ended with 0."
    )
    console.print(
        "What the algebra guarantees is the probe's reading of the hidden states: it stays inside the bound. It does "
        "not guarantee the text. A probe is one direction per layer, and how well it tracks its concept is measured "
        "(GET /v1/steering/probes). Prompts, bounds and seeds above were picked so that the effect can be seen; what "
        "steering does over many prompts, and what it costs in fluency, is measured by: make bench-quality"
    )


def _probability(value: float) -> str:
    """Enough digits that 0.9999 is not shown as 1."""
    if 0.0005 <= value <= 0.9999:
        return f"{value:.4f}".rstrip("0")
    return f"{value:.2g}" if value < 0.5 else f"1 - {1 - value:.1g}" if value < 1 else "1"


def _one_line(text: str) -> str:
    return escape(" ".join(text.split()))
