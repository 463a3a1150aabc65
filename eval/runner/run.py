"""run: write every row, measure every row, put the table together. Every step goes on where the last one ended."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from eval.figures import report
from eval.runner.depth import LAYERS, read_layers, texts_of, watched
from eval.runner.folder import RunFolder
from eval.runner.listener import Listener
from eval.runner.local import LocalWriter
from eval.runner.measures import Measure
from eval.runner.neutral import NEUTRAL, divergences
from eval.runner.parts import Parts, write_table
from eval.runner.prepare import Prepared, hashes
from eval.runner.provenance import now, session
from eval.runner.rows import Chunk, Continuation
from eval.runner.schema import LOGPROBS, SAMPLES

EXCERPTS = 4
"""Excerpts measured together: their logits are whole vocabularies per token."""


def run(prepared: Prepared, folder: RunFolder, *, listener: Listener, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Do what is left of the run and return its report, which is also kept. Raises RunStopped; then run it again."""
    with folder.locked():
        if folder.settle(prepared.identity, prepared.prompts):
            listener.say("going on with a run that was begun before")
        record = _provenance(prepared, folder, arguments)
        folder.write("provenance.json", record)
        folder.write("probes.json", prepared.writer.manifests(prepared.probes))
        write_samples(prepared, folder.samples(), listener=listener)
        sizes = sizes_of(prepared.identity)
        assert sizes == [len(chunk.rows) for chunk in prepared.chunks]
        for measure in prepared.measures():
            measure_samples(measure, folder, sizes, listener=listener)
        measure_neutral(prepared, folder, listener=listener)
        measure_layers(prepared, folder, sizes, listener=listener)
        found = finish(folder, left_out=prepared.left_out)
        record["sessions"][-1]["ended"] = now()
        folder.write("provenance.json", record)
        return found


def write_samples(prepared: Prepared, parts: Parts, *, listener: Listener) -> None:
    """Write the chunks that are not there yet."""
    chunks = prepared.chunks
    missing = [chunk for chunk in chunks if not parts.has(chunk.index, rows=len(chunk.rows))]
    total = sum(len(chunk.rows) for chunk in chunks)
    listener.begin("writing", total=total, done=total - sum(len(chunk.rows) for chunk in missing))
    if not missing:
        return
    with prepared.writer.writing():
        for chunk in missing:
            began = time.perf_counter()
            written = list(prepared.writer.write(chunk.rows, prepared.read.spec.decoding))
            each = (time.perf_counter() - began) / len(chunk.rows)
            parts.write(chunk.index, _columns(chunk, written, each))
            listener.advance(len(chunk.rows))


def measure_samples(measure: Measure, folder: RunFolder, sizes: Sequence[int], *, listener: Listener) -> None:
    """Measure the chunks that are not measured yet; `sizes` are the rows of each."""
    samples = folder.samples()
    parts = folder.measure(measure.name, measure.schema, measure.card)
    missing = [index for index, size in enumerate(sizes) if not parts.has(index, rows=size)]
    listener.begin(measure.name, total=sum(sizes), done=sum(sizes) - sum(sizes[index] for index in missing))
    for index in missing:
        parts.write(index, measure(samples.read(index)))
        listener.advance(sizes[index])


def measure_neutral(prepared: Prepared, folder: RunFolder, *, listener: Listener) -> None:
    """`neutral.parquet`: the divergence of every steered arm on every excerpt; nothing where there are none."""
    writer, excerpts = prepared.writer, prepared.excerpts
    if not excerpts or not isinstance(writer, LocalWriter):
        return
    arms, lead = [arm for arm in prepared.arms if arm.steered], prepared.read.spec.neutral
    assert lead is not None
    pieces = [excerpts[at : at + EXCERPTS] for at in range(0, len(excerpts), EXCERPTS)]
    sizes = [len(arms) * len(piece) for piece in pieces]
    parts = Parts(folder.path / "neutral", NEUTRAL)
    missing = [index for index, size in enumerate(sizes) if not parts.has(index, rows=size)]
    listener.begin("neutral text", total=sum(sizes), done=sum(sizes) - sum(sizes[index] for index in missing))
    for index in missing:
        parts.write(index, divergences(writer.lm, writer.loaded(), arms, pieces[index], lead=lead.lead))
        listener.advance(sizes[index])
    write_table(folder.path / "neutral.parquet", pa.concat_tables([parts.read(index) for index in range(len(sizes))]))


def measure_layers(prepared: Prepared, folder: RunFolder, sizes: Sequence[int], *, listener: Listener) -> None:
    """`layers.parquet`: what the arms' probes read at every layer; nothing where the model is not here."""
    writer, arms = prepared.writer, watched(prepared.arms)
    if not isinstance(writer, LocalWriter) or not prepared.probes:
        return
    loaded = writer.loaded()
    probes = {name: loaded[name] for name in prepared.probes if loaded[name].manifest.calibrated}
    rows = sum(len(probe.layers) for probe in probes.values())
    parts = Parts(folder.path / "layers", LAYERS)
    missing = [index for index in range(len(arms)) if not parts.has(index, rows=rows)]
    listener.begin("layers", total=len(arms), done=len(arms) - len(missing))
    if missing:
        samples = pa.concat_tables([folder.samples().read(index) for index in range(len(sizes))])
        texts = texts_of(samples, folder.prompt_texts())
    for index in missing:
        parts.write(index, read_layers(writer.lm, probes, arms[index], texts[arms[index].name]))
        listener.advance(1)
    write_table(folder.path / "layers.parquet", pa.concat_tables([parts.read(index) for index in range(len(arms))]))


def finish(folder: RunFolder, *, left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Put `samples.parquet` and `report.json` together from the parts, and return the report."""
    identity = folder.identity()
    sizes = sizes_of(identity)
    samples = folder.samples()
    table = pa.concat_tables([samples.read(index) for index in range(len(sizes))])
    for columns in folder.measured(sizes, first=["logprob", *identity["scorers"]]):
        for field in columns.schema:
            table = table.append_column(field, columns.column(field.name))
    if not set(LOGPROBS.names) <= set(table.column_names):
        for field in LOGPROBS:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    place = {arm["name"]: at for at, arm in enumerate(identity["arms"])}
    arms = table.column("arm").to_pylist()
    order = sorted(range(len(arms)), key=lambda at: place[arms[at]])  # stable: prompts and samples stay in order
    write_table(folder.path / "samples.parquet", table.take(pa.array(order)).combine_chunks())
    found = report(folder.table(), identity, neutral=folder.neutral(), left_out=left_out)
    folder.write("report.json", found)
    return found


def sizes_of(identity: Mapping[str, Any]) -> list[int]:
    """Rows of each chunk of a run."""
    pairs, size = sum(identity["prompts"].values()) * identity["samples"], identity["chunk"]
    return [min(size, pairs - at) for at in range(0, pairs, size) for _ in identity["arms"]]


def _columns(chunk: Chunk, written: Sequence[Continuation], seconds: float) -> dict[str, list[object]]:
    rows = list(zip(chunk.rows, written, strict=True))
    columns: dict[str, list[object]] = {
        "arm": [row.arm.name for row, _ in rows],
        "prompt_id": [row.prompt.id for row, _ in rows],
        "prompt_set": [row.prompt.set for row, _ in rows],
        "stratum": [row.prompt.stratum for row, _ in rows],
        "sample": [row.sample for row, _ in rows],
        "seed": [row.seed for row, _ in rows],
        "continuation": [done.text for _, done in rows],
        "token_ids": [done.token_ids for _, done in rows],
        "finish_reason": [done.finish_reason for _, done in rows],
        "prompt_tokens": [done.prompt_tokens for _, done in rows],
        "steering": [None if done.steering is None else json.dumps(done.steering, sort_keys=True) for _, done in rows],
        "seconds": [seconds] * len(rows),
    }
    assert list(columns) == SAMPLES.names
    return columns


def _provenance(prepared: Prepared, folder: RunFolder, arguments: Sequence[str]) -> dict[str, Any]:
    """What makes the run, with this session after those that stood there."""
    path = folder.path / "provenance.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"sessions": []}
    lm = prepared.lm
    here = session(
        arguments,
        dtype=str(prepared.writer.facts.model.get("dtype")),
        device="server" if prepared.read.spec.server else str(lm.device if lm else "none"),
    )
    checked = prepared.compared or "not checked: an artefact keeps no texts, so give the files with --train-data"
    return {
        "spec": prepared.read.spec.model_dump(by_alias=True),
        "spec_source": prepared.read.source,
        "identity": prepared.identity,
        "files": hashes(prepared),
        "prompts_compared_with_training_data": checked,
        "left_out": prepared.left_out,
        "rescored": before.get("rescored", []),
        "sessions": [*before["sessions"], here],
    }
