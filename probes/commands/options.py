"""The options of `tiller probe train` that stand for texts, harvest and fit, each once, with its help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_TEXTS = "Texts"
_FIT = "Fit"
_HARVEST = "Harvest"


class PoolingChoice(StrEnum):
    """--pooling"""

    last = "last"
    mean = "mean"
    all = "all"
    best = "best"


class MethodChoice(StrEnum):
    """--method"""

    logistic = "logistic"
    mean_difference = "mean-difference"
    lda = "lda"


class DTypeChoice(StrEnum):
    """--dtype"""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class TemplateChoice(StrEnum):
    """--template"""

    raw = "raw"
    chat = "chat"


class ShardDTypeChoice(StrEnum):
    """--shard-dtype"""

    float32 = "float32"
    float16 = "float16"


Data = Annotated[
    Path,
    typer.Option(
        help="Labelled texts or pairs: .jsonl[.gz], .csv[.gz], .parquet, .arrow, or a dataset FOLDER[:SPLIT].",
        rich_help_panel=_TEXTS,
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(help="Texts to calibrate on; default: 15% of the data, by hash.", rich_help_panel=_TEXTS),
]
TestFiles = Annotated[
    list[Path] | None,
    typer.Option(help="In-domain test texts (repeatable); default: 15% of the data, by hash.", rich_help_panel=_TEXTS),
]
OutOfDomain = Annotated[
    list[str] | None, typer.Option(help="Out-of-domain test, NAME=FILE (repeatable).", rich_help_panel=_TEXTS)
]
PairFiles = Annotated[
    list[str] | None,
    typer.Option(
        help="Minimal pairs to test on, NAME=FILE (repeatable): how often the side with the concept reads higher. "
        "Columns as --pair-columns says, or NAME=FILE:WITH,WITHOUT.",
        rich_help_panel=_TEXTS,
    ),
]
TextColumn = Annotated[str, typer.Option(help="Column of the text.", rich_help_panel=_TEXTS)]
LabelColumn = Annotated[str, typer.Option(help="Column of the label.", rich_help_panel=_TEXTS)]
LabelColumns = Annotated[
    str | None,
    typer.Option(
        help="Several columns of 0/1 (or scores, with --threshold), with commas between: one probe each, from one "
        "harvest, with the cosines between them.",
        rich_help_panel=_TEXTS,
    ),
]
EachClass = Annotated[
    bool,
    typer.Option(
        "--each-class",
        help="The label has three or more classes: one probe for each against all others, from one harvest.",
        rich_help_panel=_TEXTS,
    ),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Rows that agree here stay in one split (pairs, authors).", rich_help_panel=_TEXTS),
]
Positive = Annotated[
    str | None,
    typer.Option(help="The label value that means 1, where labels are names: es.", rich_help_panel=_TEXTS),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="The label is a score, and counts as 1 from here on: 0.5.", rich_help_panel=_TEXTS),
]
PairColumnNames = Annotated[
    str,
    typer.Option(
        help="Columns with and without the concept; a file that has both, and no text column, is read as pairs.",
        rich_help_panel=_TEXTS,
    ),
]
DropDuplicates = Annotated[
    bool,
    typer.Option(
        "--drop-duplicates",
        help="Keep the first of equal texts, rather than refuse the file.",
        rich_help_panel=_TEXTS,
    ),
]
MaxLabelNoise = Annotated[
    float,
    typer.Option(
        help="Share of the texts that may stand under both labels; all such texts are left out. By default any is an "
        "error.",
        rich_help_panel=_TEXTS,
    ),
]
DropLeaks = Annotated[
    bool,
    typer.Option(
        "--drop-leaks",
        help="Leave training texts out that stand, or whose group does, in another file.",
        rich_help_panel=_TEXTS,
    ),
]
Pool = Annotated[
    PoolingChoice,
    typer.Option(
        help="Which residual stands for a text: its last token's, the mean, all tokens (up to --tokens-per-text); "
        "best: last and mean compared on calibration texts.",
        rich_help_panel=_HARVEST,
    ),
]
TokensPerText = Annotated[
    int | None,
    typer.Option(help="With --pooling all, at most as many tokens of a text; default 16.", rich_help_panel=_HARVEST),
]
Format = Annotated[
    TemplateChoice,
    typer.Option(
        help="raw, or chat: each text is the user's turn in the model's chat template.", rich_help_panel=_HARVEST
    ),
]
ShardDType = Annotated[
    ShardDTypeChoice, typer.Option(help="Of the activations on disk; float16 halves them.", rich_help_panel=_HARVEST)
]
MaxTokens = Annotated[
    int, typer.Option(help="Longer texts keep their beginning and are counted.", rich_help_panel=_HARVEST)
]
BatchTokens = Annotated[
    int, typer.Option(help="Padded tokens per forward pass; bounds memory.", rich_help_panel=_HARVEST)
]
Work = Annotated[
    Path | None,
    typer.Option(
        help="Where activations are kept; default: under TILLER_HOME, removed at the end.", rich_help_panel=_HARVEST
    ),
]
MethodName = Annotated[
    MethodChoice,
    typer.Option(
        help="What chooses the direction: logistic regression, the difference of class means, or the linear "
        "discriminant.",
        rich_help_panel=_FIT,
    ),
]
Penalty = Annotated[
    float | None,
    typer.Option(
        "--C",
        help="Inverse L2 penalty of logistic; default: cross-validated on the training texts.",
        rich_help_panel=_FIT,
    ),
]
Shrinkage = Annotated[
    str | None,
    typer.Option(
        help="Of lda's covariance, from 0 to 1, or auto (Ledoit and Wolf's); default: cross-validated.",
        rich_help_panel=_FIT,
    ),
]
Coordinates = Annotated[
    int | None,
    typer.Option(help="A sparse probe: as many coordinates of the residual stream and no more.", rich_help_panel=_FIT),
]
Seed = Annotated[int, typer.Option(help="Of the splits, the random controls and the bootstrap.", rich_help_panel=_FIT)]
Carry = Annotated[
    str,
    typer.Option(
        help="Also fit and store what these controllers need, with commas between: transport, affine (hidden_size "
        "squared numbers per layer), erase, reading, contrast (needs --group-column), lqr (runs the model again), "
        "state (state-space models). Class means and the metric of whitened projections are always stored.",
        rich_help_panel=_FIT,
    ),
]
