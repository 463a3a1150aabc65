"""The `steering` field of a request, and how it becomes a `steering.Plan`.

Converted here, once: people say `"toxicity"` and `0.1`, the inside says a probe's slab at its layers. Errors keep the
caller's names (`steering.constraints.0.upper`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from service.errors import UNSUPPORTED, ApiError, describe
from service.validation import Strict, either, refusal
from steering.bounds import Bounds, Space
from steering.box_qp import MAX_CONSTRAINTS
from steering.constraint import Constraint, MetricName, Prompt
from steering.controllers.base import Settings, Source
from steering.controllers.table import BOUNDED, ControllerName, RuleName
from steering.errors import TillerError, UnknownProbe
from steering.models import LanguageModel
from steering.plan import OnInfeasible, Plan
from steering.probe import Probe
from steering.store import ProbeStore
from steering.tables import FOREVER

MAX_LOGIT = 1e6
"""No residual reads further out than this; beyond it float32 arithmetic on the bound would overflow."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Layer = Annotated[int, Field(ge=0, lt=4096)]
Offset = Annotated[int, Field(ge=0, le=FOREVER)]


class ConstraintField(Strict):
    """One concept held inside its bounds at some layers and tokens."""

    probe: Annotated[str, Field(max_length=128)]
    """`name@version`, or a name alone for its highest version; `GET /v1/steering/probes` lists them."""
    controller: ControllerName = "slab"
    """`slab` projects onto the bounds and `capping` onto one percentile: both are verified. The others move the stream
    by a formula of their own and promise nothing. `random` takes another rule's steps in a random direction."""
    shadow: RuleName = "slab"
    """The rule whose steps `random` takes."""
    lower: Annotated[Number, Field(ge=-MAX_LOGIT, le=MAX_LOGIT)] | None = None
    """Smallest value allowed; null leaves this side free. Both null: the probe's default bounds, where the controller
    holds any."""
    upper: Annotated[Number, Field(ge=-MAX_LOGIT, le=MAX_LOGIT)] | None = None
    """Largest value allowed."""
    space: Space = "probability"
    """What the bounds are: calibrated probability, raw logit, or percentile of text without the concept."""
    layers: Annotated[
        Literal["default", "all"] | Annotated[list[Layer], Field(min_length=1, max_length=1024)],
        either("'default', 'all' or a list of block numbers from 0"),
    ] = "default"
    """0-based decoder blocks, each block's output. `default` is the probe's own choice."""
    prompt: Prompt = "last"
    """Which prompt tokens are steered."""
    generation: Annotated[
        Literal["all"] | Annotated[list[Offset | None], Field(min_length=2, max_length=2)],
        either("'all' or [start, stop], counted in generated tokens from 0; stop may be null"),
    ] = "all"
    """Which generated tokens are steered, up to, not including, stop."""
    strength: Number = 1.0
    """Share of the change applied, in (0, 1]; below 1 the bound is not promised."""
    max_dose: Number | None = None
    """Cap on the size of the change relative to the residual; null for none."""
    metric: MetricName | None = None
    """In which metric the change is smallest; null: the probe's default. `whitened` measures it in the spread of the
    training activations within a class, and needs an artefact that carries it."""
    coefficient: Number = 1.0
    """`additive`, `reading-vector`, `state-offset`: times the vector. `setpoint`, `lqr`: times the target's mean."""
    gains: Annotated[
        Annotated[list[Number], Field(min_length=3, max_length=3)],
        either("three numbers: [proportional, integral, derivative]"),
    ] = Field(default=[1.0, 0.0, 0.0])
    """`setpoint`: proportional, integral and derivative gain."""
    source: Source = "mean"
    """`additive`, `ablate`: the difference of class means, of contrast pairs, or the probe's weight."""
    piecewise: bool = False
    """`reading-vector`: push each token further to its own side instead of all to one."""

    def to_constraint(self, store: ProbeStore, *, seed: int) -> Constraint:
        """This constraint on a loaded probe. Raises TillerError, its `param` relative to this object."""
        probe = store.get(self.probe)
        rule = self.shadow if self.controller == "random" else self.controller
        layers = self._layers(probe.layers.keys() if self.layers == "all" else None)
        for layer in layers or ():
            try:
                probe.at(layer)
            except UnknownProbe as error:
                raise ApiError(UNSUPPORTED, str(error), param="layers") from None
        proportional, integral, derivative = self.gains
        return Constraint(
            probe=probe,
            bounds=self._bounds(probe, bounded=rule in BOUNDED),
            layers=layers,
            controller=self.controller,
            prompt=self.prompt,
            generation=self._window(),
            strength=self.strength,
            max_dose=self.max_dose,
            seed=seed,
            metric=self.metric,
            shadow=self.shadow,
            settings=Settings(
                self.coefficient, (proportional, integral, derivative), source=self.source, piecewise=self.piecewise
            ),
        )

    def _bounds(self, probe: Probe, *, bounded: bool) -> Bounds | None:
        """Those of the request, else the probe's default where the controller holds any."""
        given = self.lower is not None or self.upper is not None
        default = probe.manifest.default
        if given:
            return Bounds(self.lower, self.upper, self.space)
        if "space" in self.model_fields_set and (not bounded or self.space != default.space):
            has = (
                f"the default bounds of {probe.id} are in '{default.space}'" if bounded else "the controller holds none"
            )
            raise ApiError(
                UNSUPPORTED,
                f"space is '{self.space}' but no bound is given, and {has}; give lower or upper, or leave space out",
                param="space",
            )
        return Bounds(default.lower, default.upper, default.space) if bounded else None

    def _layers(self, every: Any) -> tuple[int, ...] | None:
        if self.layers == "default":
            return None
        return tuple(every if self.layers == "all" else self.layers)

    def _window(self) -> tuple[int, int | None]:
        if self.generation == "all":
            return 0, None
        start, stop = self.generation
        return int(start or 0), None if stop is None else int(stop)


class SteeringField(Strict):
    """What is to be held, and what to report about it."""

    mode: Literal["enforce", "monitor", "off"] = "enforce"
    """`monitor` reads every probe and edits nothing; `off` generates as if no steering were given."""
    constraints: Annotated[list[ConstraintField], Field(min_length=1, max_length=MAX_CONSTRAINTS)] = Field(default=[])
    """May be left out in mode `off` only."""
    combine: Literal["joint"] = "joint"
    """Several probes at one layer are held together by one exact projection, never in turn."""
    on_infeasible: OnInfeasible = "error"
    """When bounds contradict one another: refuse, or let each give way by least squares and count those tokens."""
    report: Literal["summary", "tokens", "none"] = "summary"
    """`tokens` adds every token's probabilities."""
    baseline: bool = False
    """Add an unsteered twin of every choice, drawn with the same seed."""

    @model_validator(mode="after")
    def _only_off_needs_none(self) -> SteeringField:
        if not self.constraints and self.mode != "off":
            raise refusal("missing_constraints", "constraints is missing; only mode 'off' has none", at="constraints")
        return self

    def to_plan(self, store: ProbeStore, *, lm: LanguageModel, seed: int) -> Plan | None:
        """The plan to generate by; None for mode `off`, whose constraints are checked all the same.

        `lm` must have the states and the dtype the constraints ask for; `seed` is that of the placebo's direction.
        Raises ApiError that names the field.
        """
        constraints = []
        for index, field in enumerate(self.constraints):
            where = f"steering.constraints.{index}"
            try:
                constraint = field.to_constraint(store, seed=seed)
                if self.mode == "enforce":
                    constraint.check_representable(lm.dtype)
                if constraint.offset is not None:
                    constraint.offset.check(lm.model)
            except ApiError as error:
                raise ApiError(error.kind, error.message, param=f"{where}.{error.param}") from None
            except UnknownProbe as error:
                raise describe(error, within=where, param="probe") from None
            except TillerError as error:
                raise describe(error, within=where) from None
            constraints.append(constraint)
        if not constraints:
            return None
        try:
            plan = Plan(
                tuple(constraints),
                mode="monitor" if self.mode == "monitor" else "enforce",
                on_infeasible=self.on_infeasible,
            )
        except TillerError as error:
            raise describe(error, within="steering", param="constraints") from None
        return None if self.mode == "off" else plan


def _policy_or_object(value: Any, union: ValidatorFunctionWrapHandler) -> SteeringField | str | None:
    """Without asking `union`, whose errors would speak of its branches; it is what the API's document shows."""
    if value is None or isinstance(value, (str, SteeringField)):
        return value
    if not isinstance(value, dict):
        expected = "an object with constraints, the name of a policy, or null"
        raise PydanticCustomError("either", "{expected}", {"expected": expected})
    return SteeringField.model_validate(value)


Steering = Annotated[SteeringField | str | None, WrapValidator(_policy_or_object)]
"""The type of a request's `steering`: an object, the name of a policy, or null for the server's default (or none)."""
