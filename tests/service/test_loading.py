"""What a server loads: the right probes or none at all, and never one it should not use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import service.resident
from service.errors import TABLE, describe
from service.resident import load
from service.settings import Settings
from steering import LanguageModel, TillerError, save_probe
from steering.errors import CorruptProbe, EngineUnavailable, ModelError, ProbeMismatch


@pytest.fixture
def folder(tmp_path: Path, lm: LanguageModel, make_probe: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with toxicity@1 for the tiny model, which `load` loads whatever it is asked for."""
    monkeypatch.setattr(service.resident, "load_model", lambda name, **_: lm)
    save_probe(make_probe(lm), tmp_path)
    return tmp_path


def test_a_sound_folder_is_loaded(folder: Path) -> None:
    loaded = load(Settings(model="tiny", probes=folder))
    assert [probe.id for probe in loaded.probes] == ["toxicity@1"]
    loaded.engine.close()


def test_a_model_without_shipped_probes_is_served_without(folder: Path) -> None:
    loaded = load(Settings(model="tiny"))
    assert len(loaded.probes) == 0
    loaded.engine.close()


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "manifest"])
def test_a_damaged_probe_stops_the_server_with_the_way_out(folder: Path, damage: str) -> None:
    tensors = folder / "toxicity/1/probe.safetensors"
    data = tensors.read_bytes()
    if damage == "truncate":
        tensors.write_bytes(data[: len(data) // 2])
    elif damage == "alter":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "remove":
        tensors.unlink()
    else:
        manifest = folder / "toxicity/1/probe.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"surprise": 1}))
    with pytest.raises(CorruptProbe, match=r"again|damaged"):
        load(Settings(model="tiny", probes=folder))


def test_a_probe_of_another_model_or_width_is_refused(
    folder: Path, mamba_lm: LanguageModel, make_probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.resident, "load_model", lambda name, **_: mamba_lm)
    with pytest.raises(ProbeMismatch, match="--probe-compat"):
        load(Settings(model="tiny", probes=folder))
    loaded = load(Settings(model="tiny", probes=folder, probe_compat="width"))
    assert len(loaded.probes) == 1
    loaded.engine.close()


def test_a_missing_folder_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="--probes DIR"):
        load(Settings(model="tiny", probes=tmp_path / "none"))


def test_every_error_has_a_status_and_ours_never_name_a_path() -> None:
    def family(cls: type[TillerError]) -> Iterator[type[TillerError]]:
        yield cls
        for child in cls.__subclasses__():
            yield from family(child)

    for cls in family(TillerError):
        told = describe(cls("/some/path is broken"))
        assert told.kind in TABLE.values()
        if told.kind.status == 500:
            assert "/some/path" not in told.message


def test_a_mismatch_is_409_and_not_to_be_retried() -> None:
    told = describe(ProbeMismatch("another model"))
    assert (told.kind.status, told.kind.code) == (409, "probe_model_mismatch")
    assert told.headers == {"x-should-retry": "false"}


def test_a_full_engine_says_when_to_come_back() -> None:
    assert describe(EngineUnavailable("full", retry_after=0.2)).headers == {"retry-after": "1"}
    assert describe(EngineUnavailable("dead")).headers == {"x-should-retry": "false"}
