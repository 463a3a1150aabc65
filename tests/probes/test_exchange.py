"""Other people's files: what one tool writes the other reads, to the bit; what is lost is said; nothing is run."""

from __future__ import annotations

import pickle
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from probes.errors import ExchangeError
from probes.exchange.adopt import SENTENCES, Naming, adopt, mean_norms
from probes.exchange.control_vector import read_control_vector
from probes.exchange.hand_out import hand_out, vector
from probes.exchange.liseco import read_liseco
from probes.exchange.steering_vectors import read_steering_vectors
from steering import Bounds, capture, steer
from steering.artefact import load_probe, save_probe
from steering.controllers.additive import Additive
from steering.controllers.base import Settings
from steering.errors import InvalidRequest, ProbeMismatch, UnsupportedSteering
from steering.tiny import tiny_model

NAMING = Naming("seas", 1, "seas")
ZERO = Bounds(upper=0.0, space="logit")
ALL = [0, 1, 2, 3]


def second_opinion(name: str) -> ModuleType:
    with warnings.catch_warnings():  # theirs, at import
        warnings.simplefilter("ignore")
        found: ModuleType = pytest.importorskip(
            name, reason=f"{name} is not installed: pip install --no-deps -r tests/second-opinions.txt"
        )
    return found


@pytest.fixture
def steering_vectors() -> ModuleType:
    return second_opinion("steering_vectors")


@pytest.fixture
def repeng(monkeypatch) -> ModuleType:
    # Its class bodies name np.float_ in annotations, which numpy 2 no longer has; nothing it computes needs it.
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    return second_opinion("repeng")


@pytest.fixture
def telling(make_fitted, lm):
    """A probe with statistics whose logit is higher on texts with the concept."""
    return make_fitted(lm)


def control_vector(path: Path, tensors: dict[str, np.ndarray], *, architecture="controlvector", hint="llama") -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


READERS = {"gguf": read_control_vector, "steering-vectors": read_steering_vectors}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("direction", ["weight", "mean"])
def test_what_is_handed_out_comes_back_to_the_bit(kind, direction, telling, lm, tmp_path):
    first = tmp_path / "first"
    hand_out(telling, first, kind=kind, layers=[1, 2, 3], direction=direction)
    foreign = READERS[kind](first)
    assert sorted(foreign.weights) == [1, 2, 3]
    for layer in (1, 2, 3):
        np.testing.assert_array_equal(foreign.weights[layer].numpy(), vector(telling, layer, direction))
    probe = adopt(foreign, lm, naming=NAMING, bounds=ZERO)
    again = tmp_path / "again"
    hand_out(probe, again, kind=kind, layers=[1, 2, 3])
    for layer, weight in READERS[kind](again).weights.items():
        torch.testing.assert_close(weight, foreign.weights[layer], rtol=0, atol=0)


@pytest.mark.parametrize("kind", READERS)
def test_the_directions_are_those_of_the_probe(kind, telling, lm, tmp_path):
    hand_out(telling, tmp_path / "file", kind=kind, layers=[1, 2, 3])
    probe = adopt(READERS[kind](tmp_path / "file"), lm, naming=NAMING, bounds=ZERO)
    for layer in (1, 2, 3):
        torch.testing.assert_close(probe.at(layer).direction, telling.at(layer).direction, rtol=0, atol=1e-7)


def test_the_vector_moves_the_logit_by_the_distance_of_the_classes(telling):
    for layer in ALL:
        fitted = telling.at(layer)
        resid = drawn(32, seed=layer)
        moved = fitted.logit(resid + torch.from_numpy(vector(telling, layer, "weight"))) - fitted.logit(resid)
        apart = float(fitted.quantiles_positive.mean() - fitted.quantiles_negative.mean())
        assert float(moved) == pytest.approx(apart, abs=1e-5)


def test_a_control_vector_has_no_place_for_the_first_block_and_says_so(telling, tmp_path):
    lost = hand_out(telling, tmp_path / "v.gguf", kind="gguf", layers=ALL)
    assert sorted(read_control_vector(tmp_path / "v.gguf").weights) == [1, 2, 3]
    assert any(line.startswith("layer 0: llama.cpp refuses") for line in lost)
    with pytest.raises(ExchangeError, match="layer 0 has no place"):
        hand_out(telling, tmp_path / "w.gguf", kind="gguf", layers=[0])


def test_the_file_says_what_it_is(telling, tmp_path):
    hand_out(telling, tmp_path / "v.gguf", kind="gguf", layers=[2, 3])
    reader = gguf.GGUFReader(tmp_path / "v.gguf")

    def read(key: str) -> Any:
        return reader.get_field(key).contents()

    assert read("general.architecture") == "controlvector"
    assert read("controlvector.model_hint") == "llama"
    assert read("controlvector.layer_count") == 2
    assert read("controlvector.tiller.positive_is") == "toxicity"
    assert any("the bias and the bounds" in line for line in read("controlvector.tiller.lost"))
    assert [(tensor.name, tensor.tensor_type.name, tuple(tensor.shape)) for tensor in reader.tensors] == [
        ("direction.2", "F32", (32,)),
        ("direction.3", "F32", (32,)),
    ]


def test_repeng_reads_our_file_and_steers_the_same_blocks_by_the_same_vectors(repeng, telling, lm, tmp_path):
    hand_out(telling, tmp_path / "v.gguf", kind="gguf", layers=[1, 2])
    theirs = repeng.ControlVector.import_gguf(tmp_path / "v.gguf")
    assert theirs.model_type == "llama"
    own = tiny_model()  # repeng rewires the model it is given
    controlled = repeng.ControlModel(own.model, [1, 2])
    controlled.set_control(theirs, -0.3)
    ids = torch.tensor([lm.tokenizer("a small boat")["input_ids"]])
    with torch.no_grad():
        expected = controlled(ids).logits
    probe = adopt(read_control_vector(tmp_path / "v.gguf"), lm, naming=NAMING, bounds=ZERO)
    torch.testing.assert_close(steered(lm, probe, 0.3, ids), expected, rtol=1e-4, atol=1e-4)


def test_we_read_what_repeng_writes(repeng, lm, tmp_path):
    directions = {layer: drawn(32, seed=layer).numpy() for layer in ALL}
    repeng.ControlVector("llama", directions).export_gguf(tmp_path / "v.gguf")
    foreign = read_control_vector(tmp_path / "v.gguf")
    assert (foreign.architecture, foreign.biases) == ("llama", None)
    for layer in ALL:
        np.testing.assert_array_equal(foreign.weights[layer].numpy(), directions[layer])


def test_steering_vectors_reads_our_file_and_steers_the_same_blocks(steering_vectors, telling, lm, tmp_path):
    hand_out(telling, tmp_path / "v.pt", kind="steering-vectors", layers=[0, 2])
    theirs = steering_vectors.SteeringVector(**torch.load(tmp_path / "v.pt", weights_only=True))
    ids = torch.tensor([lm.tokenizer("a small boat")["input_ids"]])
    with torch.no_grad(), theirs.apply(lm.model, multiplier=-0.3):
        expected = lm.model(ids).logits
    probe = adopt(read_steering_vectors(tmp_path / "v.pt"), lm, naming=NAMING, bounds=ZERO)
    torch.testing.assert_close(steered(lm, probe, 0.3, ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("saved", ["object", "activations"])
def test_we_read_what_people_save_of_steering_vectors(saved, steering_vectors, tmp_path):
    layers = {1: drawn(32), 3: drawn(32, seed=1).to(torch.bfloat16)}
    whole = steering_vectors.SteeringVector(layers)
    torch.save(whole if saved == "object" else layers, tmp_path / "v.pt")
    found = read_steering_vectors(tmp_path / "v.pt").weights
    for layer in layers:
        torch.testing.assert_close(found[layer], layers[layer].float(), rtol=0, atol=0)


def steered(lm, probe, coefficient: float, ids: torch.Tensor) -> torch.Tensor:
    """Logits with `additive` from the imported vector; its default bound is an upper one, so it pushes down."""
    rule = Additive.of(probe, sorted(probe.layers), Settings(coefficient=coefficient, source="contrast"))
    edits = {at: lambda resid, at=at: resid + rule.delta(resid, layer=at, carry={}) for at in probe.layers}
    with torch.no_grad(), steer(lm.model, edits):
        found: torch.Tensor = lm.model(ids).logits
    return found


def save_liseco(folder: Path, layers: list[int], *, outputs: int = 1, form: str = "module", seed: int = 42) -> Path:
    folder.mkdir(exist_ok=True)
    for layer in layers:
        torch.manual_seed(layer)
        module = torch.nn.Linear(32, outputs)
        state = module.state_dict()
        prefixed = {f"linear.{name}": value for name, value in state.items()}
        content = {"module": module, "state": state, "prefixed": prefixed}[form]
        torch.save(content, folder / f"tiny_linear_probe_layer_{layer}_rs{seed}.pt")
    return folder


@pytest.mark.parametrize("form", ["module", "state", "prefixed"])
def test_a_head_of_one_output_is_the_logit_of_label_1(form, lm, tmp_path):
    foreign = read_liseco(save_liseco(tmp_path / "p", [1, 2], form=form), num_hidden_layers=4)
    probe = adopt(foreign, lm, naming=NAMING, bounds=ZERO)
    resid = drawn(5, 32)
    for layer in (1, 2):
        torch.manual_seed(layer)
        expected = torch.nn.Linear(32, 1)(resid).squeeze(-1).detach()
        torch.testing.assert_close(probe.at(layer - 1).logit(resid), expected, rtol=0, atol=1e-5)


def test_a_head_of_two_outputs_is_the_softmax_of_label_1(lm, tmp_path):
    foreign = read_liseco(save_liseco(tmp_path / "p", [2], outputs=2), num_hidden_layers=4)
    resid = drawn(5, 32)
    torch.manual_seed(2)
    expected = torch.nn.Linear(32, 2)(resid).softmax(dim=-1)[:, 1].detach()
    logit = adopt(foreign, lm, naming=NAMING, bounds=ZERO).at(1).logit(resid)
    torch.testing.assert_close(torch.sigmoid(logit), expected, rtol=0, atol=1e-6)


def test_numbers_that_are_no_blocks_output_are_left_out_and_named(lm, tmp_path):
    foreign = read_liseco(save_liseco(tmp_path / "p", [0, 1, 3, 4]), num_hidden_layers=4)
    assert sorted(foreign.weights) == [0, 2]
    told = " ".join(foreign.lost)
    assert "layer_0_rs42.pt reads the embeddings" in told
    assert "layer_4_rs42.pt reads the stream after the final norm" in told
    with pytest.raises(ExchangeError, match="no layer that is the output of a block"):
        read_liseco(tmp_path / "p" / "tiny_linear_probe_layer_0_rs42.pt", num_hidden_layers=4)
    with pytest.raises(ExchangeError, match="the model has 3 blocks"):
        read_liseco(tmp_path / "p", num_hidden_layers=3)


def test_our_numbering_of_the_papers_files_is_hidden_states(lm, tmp_path):
    ids = torch.tensor([lm.tokenizer("a small boat")["input_ids"]])
    with torch.no_grad(), capture(lm.model, [0, 1, 2]) as seen:
        hidden = lm.model(ids, output_hidden_states=True).hidden_states
    for layer in (1, 2, 3):
        torch.testing.assert_close(seen[layer - 1], hidden[layer], rtol=0, atol=0)


def test_the_papers_files_come_back_to_the_bit(telling, lm, tmp_path):
    lost = hand_out(telling, tmp_path / "out", kind="liseco", layers=ALL)
    assert any(line.startswith("layer 3: its number stands for") for line in lost)
    foreign = read_liseco(tmp_path / "out", num_hidden_layers=4)
    for layer in (0, 1, 2):
        torch.testing.assert_close(foreign.weights[layer], telling.at(layer).weight, rtol=0, atol=0)
        assert foreign.biases[layer] == telling.at(layer).bias


def test_files_of_several_seeds_need_a_pattern(tmp_path):
    folder = save_liseco(tmp_path / "p", [1, 2], seed=32)
    save_liseco(folder, [1, 2], seed=46)
    with pytest.raises(ExchangeError, match="several seeds"):
        read_liseco(folder, num_hidden_layers=4)
    assert sorted(read_liseco(folder / "*_rs46.pt", num_hidden_layers=4).weights) == [0, 1]
    (folder / "notes.pt").write_bytes(b"")
    with pytest.raises(ExchangeError, match=r"notes.pt is not named"):
        read_liseco(folder, num_hidden_layers=4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weight": drawn(3, 32), "bias": drawn(3)}, "one or two outputs"),
        ({"weight": drawn(1, 32)}, "expected weight and bias"),
        ({"linear.weight": drawn(1, 32), "p": drawn(1)}, "expected weight and bias"),
        (drawn(32), "expected a Linear layer"),
        ({"weight": drawn(1, 32), "bias": "none"}, "expected weight and bias"),
        ({"weight": drawn(1, 32) * float("nan"), "bias": drawn(1)}, "NaN or infinity"),
        ({"weight": drawn(1, 32), "bias": torch.tensor([float("inf")])}, "NaN or infinity"),
        ({"weight": torch.zeros(1, 32), "bias": drawn(1)}, "is zero"),
    ],
)
def test_what_is_no_linear_probe_is_refused(content, reason, tmp_path):
    torch.save(content, tmp_path / "m_linear_probe_layer_1_rs0.pt")
    with pytest.raises(ExchangeError, match=reason):
        read_liseco(tmp_path, num_hidden_layers=4)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False], ids=["torch.save", "bare pickle"])
@pytest.mark.parametrize("hidden", [False, True], ids=["bare", "in a state dict"])
def test_a_file_with_code_is_refused_and_not_run(zipped, hidden, tmp_path):
    mark = tmp_path / "it ran"
    bomb = {"weight": drawn(1, 32), "bias": Bomb(mark)} if hidden else Bomb(mark)
    path = tmp_path / "m_linear_probe_layer_1_rs0.pt"
    if zipped:
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb))
    for read in (lambda: read_liseco(path, num_hidden_layers=4), lambda: read_steering_vectors(path)):
        with pytest.raises(ExchangeError, match="wants to run code or is damaged, and was not opened"):
            read()
        assert not mark.exists()
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
    assert mark.exists(), "this bomb is a dud, so the test above shows nothing"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"layer_activations": {1: drawn(32)}, "layer_type": "mlp"}, "holds vectors for 'mlp'"),
        ({"layer_activations": {1: drawn(32)}, "coefficient": 2}, "no field of a SteeringVector"),
        ({"1": drawn(32)}, "not numbered by layer"),
        ({-1: drawn(32)}, "not numbered by layer"),
        ({True: drawn(32)}, "not numbered by layer"),
        ({1: drawn(2, 16)}, r"shape \(2, 16\)"),
        ({1: torch.ones(32, dtype=torch.int64)}, "floating-point"),
        ({1: [0.5] * 32}, "expected a tensor"),
        ({1: torch.zeros(32)}, "is zero"),
        ({1: drawn(32), 2: drawn(16)}, "not of one model"),
        ({1: drawn(32) / 0}, "NaN or infinity"),
        ({}, "nothing can be imported"),
        ([drawn(32)], "expected a SteeringVector"),
    ],
)
def test_what_is_no_steering_vector_is_refused(content, reason, tmp_path):
    torch.save(content, tmp_path / "v.pt")
    with pytest.raises(ExchangeError, match=reason):
        read_steering_vectors(tmp_path / "v.pt")


@pytest.mark.parametrize(
    ("tensors", "options", "reason"),
    [
        ({"direction.1": np.ones(32, np.float32)}, {"architecture": "llama"}, "architecture 'llama', expected"),
        ({"direction.-1": np.ones(32, np.float32)}, {}, "names no layer"),
        ({"direction.01": np.ones(32, np.float32)}, {}, "names no layer"),
        ({"direction.one": np.ones(32, np.float32)}, {}, "names no layer"),
        ({"blk.1.attn": np.ones(32, np.float32)}, {}, "none of a control vector's"),
        ({"direction.1": np.ones(32, np.int32)}, {}, "stored as I32"),
        ({"direction.1": np.ones((2, 32), np.float32)}, {}, r"shape \(2, 32\)"),
        ({"direction.1": np.zeros(32, np.float32)}, {}, "is zero"),
        ({"direction.1": np.full(32, np.nan, np.float32)}, {}, "NaN or infinity"),
        ({"direction.1": np.ones(32, np.float32), "direction.2": np.ones(8, np.float32)}, {}, "not of one model"),
        ({}, {}, "nothing can be imported"),
    ],
)
def test_what_is_no_control_vector_is_refused(tensors, options, reason, tmp_path):
    with pytest.raises(ExchangeError, match=reason):
        read_control_vector(control_vector(tmp_path / "v.gguf", tensors, **options))


def test_a_layer_twice_is_refused(tmp_path):
    both = {"direction.1": np.ones(32, np.float32), "direction.2": np.ones(32, np.float32)}
    path = control_vector(tmp_path / "v.gguf", both)
    path.write_bytes(path.read_bytes().replace(b"direction.2", b"direction.1"))
    with pytest.raises(ExchangeError, match=r"not a whole GGUF file.*duplicate"):
        read_control_vector(path)


def test_damaged_files_are_refused_wherever_they_are_cut(tmp_path):
    path = control_vector(tmp_path / "v.gguf", {"direction.1": np.ones(32, np.float32)})
    whole = path.read_bytes()
    for kept in range(0, len(whole) - 128, 7):  # the last 128 bytes are the 32 numbers
        path.write_bytes(whole[:kept])
        with pytest.raises(ExchangeError):
            read_control_vector(path)
    path.write_bytes(b"not a gguf file at all, but long enough to have a header")
    with pytest.raises(ExchangeError, match="not a whole GGUF file"):
        read_control_vector(path)
    torch.save({1: drawn(32)}, tmp_path / "v.pt")
    whole = (tmp_path / "v.pt").read_bytes()
    for kept in range(0, len(whole) - 8, 97):
        (tmp_path / "v.pt").write_bytes(whole[:kept])
        with pytest.raises(ExchangeError):
            read_steering_vectors(tmp_path / "v.pt")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("announced", ["array of bytes", "array of strings", "tensors"])
def test_a_file_that_announces_more_than_it_holds_is_refused_at_once(announced, tmp_path):
    tensors, keys = (2**50, 0) if announced == "tensors" else (0, 1)
    header = struct.pack("<IIQQ", gguf.GGUF_MAGIC, 3, tensors, keys)
    kind = gguf.GGUFValueType.STRING if announced.endswith("strings") else gguf.GGUFValueType.UINT8
    array = struct.pack("<Q1sIIQ", 1, b"x", gguf.GGUFValueType.ARRAY, kind, 2**40)
    (tmp_path / "v.gguf").write_bytes(header + (array if keys else b"") + bytes(64))
    with pytest.raises(ExchangeError, match="not a whole GGUF file"):
        read_control_vector(tmp_path / "v.gguf")


def test_a_half_precision_control_vector_is_read(tmp_path):
    values = drawn(32).numpy().astype(np.float16)
    path = control_vector(tmp_path / "v.gguf", {"direction.1": values})
    np.testing.assert_array_equal(read_control_vector(path).weights[1].numpy(), values.astype(np.float32))


@pytest.mark.parametrize(
    ("tensors", "hint", "reason"),
    [
        ({"direction.1": np.ones(64, np.float32)}, "llama", "width 64, but tiny-llama has hidden_size 32"),
        ({"direction.4": np.ones(32, np.float32)}, "llama", "layer 4, but tiny-llama has layers 0 to 3"),
        ({"direction.1": np.ones(32, np.float32)}, "qwen2", "type 'qwen2'.*--compat width"),
    ],
)
def test_vectors_of_another_model_are_refused(tensors, hint, reason, lm, tmp_path):
    foreign = read_control_vector(control_vector(tmp_path / "v.gguf", tensors, hint=hint))
    with pytest.raises(ProbeMismatch, match=reason):
        adopt(foreign, lm, naming=NAMING, bounds=ZERO)


@pytest.mark.parametrize("hint", ["mistral", "Llama", None])
def test_other_words_for_the_same_model_type_are_not_refused(hint, lm, tmp_path):
    path = control_vector(tmp_path / "v.gguf", {"direction.1": np.ones(32, np.float32)}, hint=hint)
    adopt(read_control_vector(path), lm, naming=NAMING, bounds=ZERO)
    path = control_vector(tmp_path / "w.gguf", {"direction.1": np.ones(32, np.float32)}, hint="qwen2")
    adopt(read_control_vector(path), lm, naming=NAMING, bounds=ZERO, level="width")


def test_an_imported_probe_says_what_it_lacks_wherever_it_goes(telling, lm, tmp_path):
    hand_out(telling, tmp_path / "v.gguf", kind="gguf", layers=[1, 2])
    made = adopt(read_control_vector(tmp_path / "v.gguf"), lm, naming=NAMING, bounds=ZERO)
    probe = load_probe(save_probe(made, tmp_path / "probes"))
    manifest = probe.manifest
    assert not manifest.calibrated
    assert (manifest.origin.format, manifest.origin.file, manifest.origin.bias) == ("gguf", "v.gguf", False)
    assert any("the bias" in line for line in manifest.origin.lost)
    assert manifest.fit.method == "imported"
    assert all(report.test is None for report in manifest.metrics.values())
    assert manifest.positive_is == "toxicity"  # from our own keys in the file
    norms = mean_norms(lm, [1, 2])
    assert {layer: probe.at(layer).resid_norm for layer in (1, 2)} == pytest.approx(norms, rel=1e-6)
    with pytest.raises(UnsupportedSteering, match="carries no 'mean'"):
        Additive.of(probe, [1], Settings())


def test_norms_are_those_of_each_sentence_alone(lm):
    expected = []
    for sentence in SENTENCES:
        with torch.no_grad(), capture(lm.model, [2]) as seen:
            lm.model(torch.tensor([lm.tokenizer(sentence)["input_ids"]]))
        expected.append(float(np.linalg.norm(seen[2][0, -1].double().numpy())))
    assert mean_norms(lm, [2])[2] == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize(("bounds", "sign"), [(ZERO, -1.0), (Bounds(lower=0.0, space="logit"), 1.0)])
def test_the_vector_is_turned_to_the_allowed_side(bounds, sign, lm, tmp_path):
    path = control_vector(tmp_path / "v.gguf", {"direction.1": drawn(32).numpy()})
    probe = adopt(read_control_vector(path), lm, naming=NAMING, bounds=bounds)
    pushed = Additive.of(probe, [1], Settings(source="contrast")).delta(drawn(1, 1, 32), layer=1, carry={})
    torch.testing.assert_close(pushed[0, 0], sign * drawn(32), rtol=0, atol=0)


def test_bounds_that_an_import_cannot_have_are_refused(lm, tmp_path):
    path = control_vector(tmp_path / "v.gguf", {"direction.1": drawn(32).numpy()})
    foreign = read_control_vector(path)
    with pytest.raises(ExchangeError, match="are logits, not 'probability'"):
        adopt(foreign, lm, naming=NAMING, bounds=Bounds(upper=0.1))
    with pytest.raises(ExchangeError, match="one allowed side"):
        adopt(foreign, lm, naming=NAMING, bounds=Bounds(lower=-1.0, upper=1.0, space="logit"))


def test_what_cannot_be_handed_out_is_refused_and_nothing_is_left(telling, probe, lm, tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ExchangeError, match="not overwritten"):
        hand_out(telling, tmp_path / "there", kind="gguf", layers=[1])
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(UnsupportedSteering, match="carries no 'mean'"):
        hand_out(probe, tmp_path / "v", kind="gguf", layers=[1], direction="mean")
    with pytest.raises(ExchangeError, match="read-outs, not vectors"):
        hand_out(telling, tmp_path / "v", kind="liseco", layers=[1], direction="mean")
    upside = replace(telling.at(1), quantiles_positive=telling.at(1).quantiles_negative)
    flat = replace(telling, layers={**telling.layers, 1: upside})
    with pytest.raises(ExchangeError, match=r"at layer 1 the logit .* is not higher"):
        hand_out(flat, tmp_path / "v", kind="gguf", layers=[1])
    with pytest.raises(InvalidRequest, match="cannot be written"):
        hand_out(telling, tmp_path / "there" / "v.gguf", kind="gguf", layers=[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
