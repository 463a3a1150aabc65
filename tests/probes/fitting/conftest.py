"""Two classes of activations with known, unequal moments."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def classes() -> tuple[np.ndarray, np.ndarray]:
    """(300, 6) and (200, 6) float32: correlated, on unequal scales, with different means and covariances."""
    random = np.random.default_rng(0)
    scales = np.array([0.1, 0.5, 1.0, 2.0, 5.0, 30.0])
    mixing = np.eye(6) + 0.3 * random.standard_normal((2, 6, 6))
    negative = random.standard_normal((300, 6)) @ mixing[0] * scales + scales
    positive = random.standard_normal((200, 6)) @ mixing[1] * scales * 1.5 - scales / 2
    return negative.astype(np.float32), positive.astype(np.float32)
