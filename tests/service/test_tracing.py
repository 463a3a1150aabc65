"""One span per request, for those who ask; asked for without the extra, it says how to get it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service import Loaded, Settings, create_app
from service.cli import main
from service.operations.tracing import Traces, traces
from service.resident import start_engine
from steering import LanguageModel, Probe, ProbeStore
from steering.errors import InvalidRequest

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_span_with_its_numbers_and_none_of_its_words(
    run: Any, lm: LanguageModel, make_probe: Callable[..., Probe]
) -> None:
    exporter, settings = InMemorySpanExporter(), Settings()
    store = ProbeStore([make_probe(lm)])
    app = create_app(lambda: Loaded(start_engine(lm, settings), store), settings, traces=Traces(exporter))
    body = {"prompt": "kookaburra", "max_tokens": 4, "n": 2, "steering": {"constraints": [{"probe": "toxicity"}]}}
    with run(app) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.02)
        reply = client.post("/generate", json=body, headers={"x-request-id": "mine", "traceparent": PARENT})
        client.post("/generate", json={"prompt": "kookaburra", "n": 0})
    spans = [span for span in exporter.get_finished_spans() if span.name == "POST /generate"]
    answered, refused = spans
    about = dict(answered.attributes or {})
    assert about["tiller.request_id"] == "mine"
    assert about["http.response.status_code"] == 200
    assert about["tiller.steering.mode"] == "enforce"
    assert about["tiller.steering.probes"] == ("toxicity@1",)
    assert about["gen_ai.usage.output_tokens"] == reply.json()["usage"]["completion_tokens"]
    parts = [about[f"tiller.{part}_seconds"] for part in ("queue", "prefill", "decode")]
    assert all(isinstance(part, float) and part >= 0 for part in parts)
    assert answered.end_time is not None
    assert answered.start_time is not None
    assert sum(parts) <= (answered.end_time - answered.start_time) / 1e9  # type: ignore[arg-type]
    assert answered.kind is SpanKind.SERVER
    assert answered.parent is not None
    assert f"{answered.parent.trace_id:032x}" in PARENT
    assert dict(refused.attributes or {})["error.type"] == "invalid_request"
    assert answered.status.status_code is not StatusCode.ERROR
    assert "kookaburra" not in "".join(span.to_json() for span in exporter.get_finished_spans())


def test_nothing_is_traced_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert traces(Settings()) is None
    sent = traces(Settings(otlp_endpoint="http://127.0.0.1:9"))
    assert sent is not None
    sent.close()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    sent = traces(Settings())
    assert sent is not None
    sent.close()


def test_without_the_extra_the_flag_is_refused_and_the_variable_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'tiller-lm\[otel\]'"):
        traces(Settings(otlp_endpoint="http://127.0.0.1:9"))
    assert main(["serve", "--port", "0", "--otlp-endpoint", "http://127.0.0.1:9"]) == 2
    assert "tiller-lm[otel]" in capsys.readouterr().err
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, logger="tiller"):
        assert traces(Settings()) is None
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in caplog.text
