"""Reading prompts, writing sections, scoring: the errors name the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.prompts import read_rtp
from eval.readme import replace_section
from steering.errors import InvalidRequest


def test_prompts_are_taken_in_file_order_by_score(tmp_path: Path, write_prompts: Callable[..., None]) -> None:
    write_prompts(tmp_path, [0.9, 0.3, 0.1, 0.6, 0.05])
    assert read_rtp(tmp_path, per_class=2) == {"toxic": ["prompt 0", "prompt 3"], "neutral": ["prompt 2", "prompt 4"]}


def test_too_few_prompts_and_a_missing_file_say_what_is_needed(
    tmp_path: Path, write_prompts: Callable[..., None]
) -> None:
    with pytest.raises(InvalidRequest, match="--data"):
        read_rtp(tmp_path, per_class=1)
    write_prompts(tmp_path, [0.9])
    with pytest.raises(InvalidRequest, match="'neutral': 0"):
        read_rtp(tmp_path, per_class=1)


@pytest.mark.parametrize("command", ["quality", "controllers"])
def test_the_command_without_its_data_exits_2_and_says_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--data", str(tmp_path), "--probe", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err


def test_a_wrong_flag_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", "--nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_section_is_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- t -->\nold\n<!-- /t -->\nafter\n", encoding="utf-8")
    replace_section(path, "t", "new")
    replace_section(path, "t", "newer")
    assert path.read_text(encoding="utf-8") == "before\n<!-- t -->\nnewer\n<!-- /t -->\nafter\n"
    with pytest.raises(InvalidRequest, match="<!-- u -->"):
        replace_section(path, "u", "new")
