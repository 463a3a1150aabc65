"""tiller probe train --model smollm2-135m-instruct --data texts.jsonl --concept toxicity --out my-probes

Also `python -m probes`. `train` makes a probe from labelled texts, `screen` finds the layers at which steering it
changes the text, `show` prints what one is, `verify` checks that its files are whole, `diff` compares two, `export` and
`import` exchange them with other tools, `push` and `pull` with the Hugging Face Hub. Exit codes: 0 done, 2 refused with
a reason, 130 interrupted (run the same line again to resume).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from probes.commands.exchange import diff, export, import_, pull, push
from probes.commands.look import show, verify
from probes.commands.screen import screen
from probes.commands.train import train
from steering.commandline import run_app

app = typer.Typer(
    help="Make and inspect probes: linear read-outs of a concept from a model's residual stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train, screen, show, verify, diff, export, push, pull):
    app.command()(command)
app.command("import")(import_)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what Tiller refuses is said on stderr."""
    return run_app(app, argv, prog_name="tiller probe")


if __name__ == "__main__":
    sys.exit(main())
