"""The columns of `samples.parquet`: one row per continuation, in the order of arms, prompts and samples.

arm, prompt_id, prompt_set, stratum, sample, seed      which row
continuation, token_ids, finish_reason, prompt_tokens  what was written
steering                                               the report as JSON, null where nothing was steered
seconds                                                its share of the wall time of its chunk
logprob_sum, logprob_tokens                            ln P(continuation | prompt) under the unsteered model
score.<name>                                           one per scorer; NaN where there is nothing to score
"""

from __future__ import annotations

import pyarrow as pa

SAMPLES = pa.schema(
    [
        ("arm", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt_set", pa.string()),
        ("stratum", pa.string()),
        ("sample", pa.int32()),
        ("seed", pa.int64()),
        ("continuation", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("steering", pa.string()),
        ("seconds", pa.float64()),
    ]
)
LOGPROBS = pa.schema([("logprob_sum", pa.float64()), ("logprob_tokens", pa.int32())])


def score_schema(name: str) -> pa.Schema:
    """Of one scorer's parts."""
    return pa.schema([(score_column(name), pa.float64())])


def score_column(name: str) -> str:
    """`score.<name>`"""
    return f"score.{name}"
