"""What an evaluation is: the words of a spec file, each with its meaning.

    prompts x arms x samples, decoded the same way and with the same seeds under every arm, then scored

Lists of values in an arm are a grid; `eval.runner.expansion` has taken them apart before they come here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from eval.arms import ArmController
from eval.runner.strict import Strict, either
from steering.bounds import Space
from steering.constraint import MetricName, Prompt
from steering.controllers.base import Source

Number = Annotated[float, Field(allow_inf_nan=False)]
Word = Annotated[str, Field(min_length=1)]


class Depth(Strict):
    """Layers by their share of the model's depth: {from: 0.25} is every block from one quarter up."""

    start: Annotated[Number, Field(ge=0, lt=1, alias="from")]
    end: Annotated[Number, Field(gt=0, le=1, alias="to")] = 1.0


Placebos = Literal["all", "first", "none"]
"""Of every grid of arms."""

Layers = Annotated[
    Word | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | Depth,
    either("'default', 'all', a range such as '8-29', a list of block numbers, or {from: SHARE, to: SHARE}"),
]


class ConstraintSpec(Strict):
    """One concept under one controller, in the words of the HTTP field `steering`."""

    probe: Word | None = None
    """`name@version` or `name`; null takes the spec's."""
    controller: ArmController
    lower: Number | None = None
    """Both bounds null: the probe's default, where the controller holds any."""
    upper: Number | None = None
    space: Space = "probability"
    layers: Layers = "default"
    prompt: Prompt | None = None
    """Which prompt tokens; null: `last`, and `none` for a state offset."""
    generation: Annotated[list[int | None], Field(min_length=2, max_length=2)] | None = None
    """[start, stop) of the generated tokens; null: all."""
    strength: Number = 1.0
    max_dose: Number | None = None
    metric: MetricName | None = None
    coefficient: Number = 1.0
    gains: Annotated[list[Number], Field(min_length=3, max_length=3)] = Field(default=[1.0, 0.0, 0.0])
    source: Source = "mean"
    piecewise: bool = False


class ArmSpec(Strict):
    """One way of writing the continuations."""

    name: Word | None = None
    """Null: made from what sets the arm apart."""
    instruction: Word | None = None
    """Of `prompt`: a key of `steering.controllers.prompt.INSTRUCTIONS`, or the instruction itself."""
    constraints: list[ConstraintSpec] = Field(default=[])
    """Held or moved together; empty: nothing is steered."""
    placebo: bool = True
    """False leaves out its same-norm placebo, which the report then says."""


class PromptSource(Strict):
    """Prompts from a file of JSON lines, or written here."""

    name: Word | None = None
    """Of the set, as in the column `prompt_set`; null: the file's stem."""
    file: Word | None = None
    """.jsonl or .jsonl.gz"""
    texts: list[Word] | None = None
    column: Word = "prompt"
    id: Word = "id"
    """Column that names a prompt; where a row has none its line number does."""
    where: dict[str, str | int | float | bool] = Field(default={})
    """Only rows whose columns have these values."""
    exclude: list[Word] = Field(default=[])
    """Files whose texts are left out, and counted."""
    stratum: Word | None = None
    """Column whose value is the prompt's stratum."""
    score: Word | None = None
    """Numeric column that makes strata: `threshold` and above is one, below the other."""
    threshold: Number = 0.5
    n: Annotated[int, Field(ge=1)] | None = None
    """Null takes all."""
    n_per_stratum: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    """Of which n are taken: those whose hash with it is smallest, so that a sorted file is sampled fairly."""

    @model_validator(mode="after")
    def _one_source(self) -> PromptSource:
        if (self.file is None) == (self.texts is None):
            raise ValueError("either a file or texts, and not both")
        if self.stratum is not None and self.score is not None:
            raise ValueError("a stratum or a score that makes strata, not both")
        if self.n is not None and self.n_per_stratum is not None:
            raise ValueError("n or n_per_stratum, not both")
        return self


class Decoding(Strict):
    """How the model is decoded; the same under every arm."""

    max_tokens: Annotated[int, Field(ge=1)] = 20
    temperature: Annotated[Number, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[Number, Field(gt=0)] = 1.0
    presence_penalty: Number = 0.0
    frequency_penalty: Number = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the run. A sample's own seed follows from it, its prompt's text and its number."""


class ScorerSpec(Strict):
    """A judge of the continuations."""

    name: Word
    threshold: Number = 0.5
    """A score of at least this counts as a hit in rates."""


class Neutral(Strict):
    """Ordinary text on which the cost of steering is read: KL(unsteered || steered) of the next token, in nats."""

    file: Word | None = None
    texts: list[Word] | None = None
    column: Word = "text"
    n: Annotated[int, Field(ge=1)] = 32
    """Texts, one excerpt each."""
    tokens: Annotated[int, Field(ge=4)] = 51
    """Of each excerpt."""
    lead: Annotated[int, Field(ge=2)] = 32
    """Tokens read as the prompt; those after it count as written."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Neutral:
        if (self.file is None) == (self.texts is None):
            raise ValueError("either a file or texts, and not both")
        if self.lead >= self.tokens:
            raise ValueError("lead below tokens, so that something is left to predict")
        return self


class Spec(Strict):
    """One evaluation. Paths that begin with `./` or `../` are relative to the spec file, others to `data`."""

    name: Word
    about: str = ""
    data: Word | None = None
    """Folder of the data files, relative to the spec file; null: the spec file's own. `--data` is stronger."""
    model: Word | None = None
    """Embedded name, Hugging Face id or folder. With a server it must be the same; it measures log-probabilities, which
    the server is asked for else, and brings the chat template that instructions need."""
    server: Word | None = None
    """URL of a running server that writes; null: the model is loaded here."""
    probes: Word | None = None
    """Folder of <name>/<version>; null: those shipped for the model."""
    probe: Word | None = None
    """What arms steer that name no probe."""
    prompts: Annotated[list[PromptSource], Field(min_length=1)]
    decoding: Decoding = Field(default=Decoding())
    samples: Annotated[int, Field(ge=1)] = 1
    """Continuations of each prompt under each arm."""
    arms: Annotated[list[ArmSpec], Field(min_length=1)]
    placebos: Placebos = "all"
    """Which arms of a grid get their same-norm placebo: `first` is a third less to write, and no other arm of the grid
    can then carry a claim, which the report says."""
    scorers: Annotated[list[ScorerSpec], Field(min_length=1)]
    neutral: Neutral | None = None
    train_data: list[Word] = Field(default=[])
    """Files the probes were trained or tuned on: a prompt that stands in one is refused."""
    chunk: Annotated[int, Field(ge=1)] = 32
    """Rows kept together: what a kill can cost."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Rows run together when the model is loaded here."""

    @model_validator(mode="after")
    def _someone_writes(self) -> Spec:
        if self.model is None and self.server is None:
            raise ValueError("a model to load, or the URL of a server")
        return self
