"""`tiller keys`: who may use a server. A running one sees every change within a second.

tiller keys add alice --requests-per-minute 60 --tokens-per-day 200000 --expires 90
tiller keys rotate alice --grace-hours 24
tiller keys revoke alice
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from service.protection.keys import Key, KeyStore, Scope

app = typer.Typer(help="Who may use a server: bearer keys, stored as digests.", no_args_is_help=True)

_DAY = 86_400.0

Name = Annotated[str, typer.Argument(help="Whose key it is; may appear in logs.")]
State = Annotated[
    Path | None,
    typer.Option(envvar="TILLER_STATE", help="The server's state folder. [default: beside the models, as for serve]"),
]


@app.command("add")
def add(
    name: Name,
    requests_per_minute: Annotated[int | None, typer.Option(help="At most. [default: no limit]")] = None,
    tokens_per_day: Annotated[
        int | None, typer.Option(help="Read and written, each day of UTC. [default: no limit]")
    ] = None,
    expires: Annotated[float | None, typer.Option(help="Days the key is good for. [default: for ever]")] = None,
    scope: Annotated[
        str, typer.Option(help="generate: text, scores, looking; admin: probes, policies and evaluations, too.")
    ] = "generate",
    state: State = None,
) -> None:
    """Make a key and print it, this once: only its digest is kept.

    Example: tiller keys add alice --requests-per-minute 60 --tokens-per-day 200000 --expires 90
    """
    key = _store(state).add(
        name,
        requests_per_minute=requests_per_minute,
        tokens_per_day=tokens_per_day,
        expires=None if expires is None else time.time() + expires * _DAY,
        scope=cast("Scope", scope),  # checked there
    )
    _show(key, f"the key of {name}; it cannot be shown again. Send it as the header  Authorization: Bearer KEY")


@app.command("list")
def list_keys(state: State = None) -> None:
    """Show names, limits and what was used today; never a key."""
    keys = _store(state).all()
    if not keys:
        typer.echo("there are no keys; make one: tiller keys add NAME")
        return
    rows = [("NAME", "STATE", "SCOPE", "REQUESTS/MIN", "TOKENS TODAY", "TOKENS/DAY", "EXPIRES"), *map(_row, keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command("rotate")
def rotate(
    name: Name,
    grace_hours: Annotated[float, typer.Option(help="How long the old key stays good beside the new one.")] = 0.0,
    state: State = None,
) -> None:
    """Make a new key for a name and print it; limits and usage stay. The old one ends at once, or after the grace.

    Example: tiller keys rotate alice --grace-hours 24
    """
    key = _store(state).rotate(name, grace=grace_hours * 3600)
    _show(key, f"the new key of {name}; the old one {f'ends in {grace_hours:g} hours' if grace_hours else 'has ended'}")


@app.command("revoke")
def revoke(
    name: Name,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also delete its row and usage, revoked or not; see below.")
    ] = False,
    state: State = None,
) -> None:
    """End a key at once.

    A server whose last key was revoked stays closed, over restarts too: everybody gets 401. To have it open again,
    revoke all keys with --forget and restart it.
    """
    store = _store(state)
    if forget:
        store.forget(name)
        typer.echo(f"the key of {name} is gone, and all that was known of it")
        return
    left = store.revoke(name)
    then = "" if left else ", and servers stay closed; tiller keys revoke --help says how they are opened again"
    typer.echo(f"the key of {name} has ended; {left or 'no'} {'key is' if left == 1 else 'keys are'} left{then}")


def _store(state: Path | None) -> KeyStore:
    from service.database import Database
    from service.protection.keys import KeyStore
    from steering.embedded import tiller_home

    return KeyStore(Database(state or tiller_home() / "state"))


def _show(key: str, about: str) -> None:
    """The key alone on standard output, so that KEY=$(tiller keys add NAME) works."""
    typer.echo(key)
    typer.echo(about, err=True)


def _row(key: Key) -> tuple[str, ...]:
    return tuple(_cells(key))


def _cells(key: Key) -> Iterator[str]:
    yield key.name
    yield key.state(time.time())
    yield key.scope
    yield "-" if key.requests_per_minute is None else str(key.requests_per_minute)
    yield str(key.tokens_today)
    yield "-" if key.tokens_per_day is None else str(key.tokens_per_day)
    yield "-" if key.expires is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(key.expires))
