"""The side effect of steering in one number: how far it moves the next token on text that gives no reason to steer.

KL(unsteered || steered) = sum_v p(v) (ln p(v) - ln q(v))     in nats
"""

from __future__ import annotations

from torch import Tensor


def next_token_kl(unsteered: Tensor, steered: Tensor) -> Tensor:
    """KL in nats, float64 (...), for logits or log-probabilities (..., vocab); never negative.

    A token that only the steered model rules out makes it infinite. Raises ValueError when the shapes differ.
    """
    if unsteered.shape != steered.shape:
        raise ValueError(
            f"unsteered logits are {tuple(unsteered.shape)} and steered ones {tuple(steered.shape)}; both must be of "
            "the same positions and vocabulary"
        )
    p, q = unsteered.double().log_softmax(dim=-1), steered.double().log_softmax(dim=-1)
    mass = p.exp()
    terms = (mass * (p - q)).where(mass > 0, mass)  # 0 ln 0 is 0
    return terms.sum(dim=-1).clamp_min(0.0)
