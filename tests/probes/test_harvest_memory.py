"""Memory does not grow with the corpus: measured in processes of their own, as `benchmarks/harvest.py` does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ten_times_the_texts_need_no_more_memory():
    def peak(texts: int) -> float:
        command = [sys.executable, str(ROOT / "benchmarks" / "harvest.py"), "--measure", str(texts)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        above: float = json.loads(done.stdout)["above"]
        return above

    small, large = peak(2_000), peak(20_000)
    assert large - small < 16, "MB; 18,000 texts of three poolings are 60 MB of activations"
