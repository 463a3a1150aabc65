"""From a text to a probe's probabilities at every token and layer, read by the engine beside the rows it writes."""

from __future__ import annotations

import math

from torch import Tensor

from service.chat import chat_prompt
from service.errors import describe
from service.holdings.policies import chosen
from service.resident import Loaded
from service.schemas.generation import SteeringSummary
from service.schemas.probes import ScoredToken, ScoreRequest, ScoreResponse, Table
from service.settings import Settings
from steering.errors import InvalidRequest, PromptTooLong
from steering.probe import Probe
from steering.requests import encode
from steering.scoring import Scores, Scoring


class Reading:
    """A checked request to score. Made in the admission thread, since it tokenises. Raises ApiError."""

    def __init__(self, body: ScoreRequest, probe: Probe, loaded: Loaded, settings: Settings) -> None:
        self._probe = probe
        self._loaded = loaded
        self._policy: str | None = None
        lm = loaded.engine.lm
        plan = None
        if body.steering is not None:
            # read as asked for also where requests may not opt out: nothing is written
            free = settings.model_copy(update={"allow_opt_out": True})
            steering, self._policy = chosen(body.steering, loaded.policies, free)
            plan = None if steering is None else steering.to_plan(loaded.probes, lm=lm, seed=0)
        prompt: list[int] = []
        if body.prompt is not None:
            prompt = _tokens(body.prompt, loaded, param="prompt")
        elif body.messages is not None:
            prompt = list(chat_prompt(lm, body.messages))
        completion = [] if body.completion is None else _tokens(body.completion, loaded, param="completion")
        self.tokens = [*prompt, *completion]
        most = min(loaded.engine.row_tokens, lm.context or loaded.engine.row_tokens)
        if len(self.tokens) > most:
            raise describe(
                PromptTooLong(
                    f"the text has {len(self.tokens)} tokens, but at most {most} are scored; shorten it, or start the "
                    "server with more --row-tokens",
                    param="prompt",
                )
            )
        try:
            self.work = Scoring(lm, prompt, completion, probe=probe, plan=plan, chunk_tokens=loaded.engine.chunk_tokens)
        except InvalidRequest as error:
            raise describe(error, within="steering") from None

    def reply(self, scores: Scores) -> ScoreResponse:
        """The answer."""
        name_of = self._loaded.tokens.name_of
        report = scores.steering
        return ScoreResponse(
            probe=self._probe.id,
            layers=scores.layers,
            tokens=[
                ScoredToken(offset=offset, token_id=token, token=name_of(token))
                for offset, token in zip(scores.offsets, self.tokens, strict=True)
            ],
            pre=_table(scores.before),
            post=_table(scores.after),
            steering=None if report is None else SteeringSummary(policy=self._policy, **report.to_json()),
        )


def _tokens(text: str | list[int], loaded: Loaded, *, param: str) -> list[int]:
    lm = loaded.engine.lm
    try:
        if isinstance(text, str) and param == "completion":
            encode(lm, text, max_tokens=0)  # for its refusals
            return list(lm.tokenizer(text, add_special_tokens=False)["input_ids"])
        return encode(lm, text, max_tokens=0)
    except InvalidRequest as error:
        refused = describe(error)
        refused.param = param
        refused.message = refused.message.replace("the prompt", f"the {param}")
        raise refused from None


def _table(values: Tensor) -> Table:
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
