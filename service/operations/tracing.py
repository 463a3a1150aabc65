"""Traces, for those who ask: one OpenTelemetry span per request, a child of the caller's own if it sent `traceparent`.

Needs the extra `otel`. Spans go by OTLP over HTTP to `otlp_endpoint`, or to where OTEL_EXPORTER_OTLP_ENDPOINT says;
the other OTEL_ variables mean what OpenTelemetry says they mean. A span has a visit's numbers, never its texts.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from service.operations.visits import Visit
from service.settings import Settings
from steering.errors import InvalidRequest
from steering.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NANO = 1_000_000_000

log = logging.getLogger("tiller")


class Traces:
    """Sends a span for every visit through `exporter`, in batches, from a thread of its own.

    Raises ModuleNotFoundError without the extra `otel`.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        about = Resource.create({SERVICE_NAME: "tiller", SERVICE_VERSION: __version__})
        self._provider = TracerProvider(resource=about.merge(OTELResourceDetector().detect()))  # OTEL_SERVICE_NAME wins
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tiller", __version__)

    def visited(self, visit: Visit) -> None:
        """Note a span for a request that has been answered."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        began = int(visit.started * _NANO)
        span = self._tracer.start_span(
            f"{visit.method} {visit.route}",
            context=TraceContextTextMapPropagator().extract(visit.headers),
            kind=SpanKind.SERVER,
            attributes=_attributes(visit),
            start_time=began,
        )
        if visit.status is None or visit.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(began + int(visit.seconds * _NANO))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def traces(settings: Settings) -> Traces | None:
    """Traces, if the settings or the environment ask for them.

    Raises InvalidRequest when the settings do and the extra is missing. Where only the environment does, which may be
    meant for somebody else, a missing extra is a warning.
    """
    variable = next((name for name in VARIABLES if os.environ.get(name)), None)
    if settings.otlp_endpoint is None and variable is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as missing:
        way_out = f"traces need {missing.name}, which comes with an extra: pip install 'tiller-lm[otel]'"
        if settings.otlp_endpoint is not None:
            raise InvalidRequest(f"--otlp-endpoint was given, but {way_out}", param="otlp_endpoint") from None
        log.warning("%s is set and no traces are sent: %s", variable, way_out)
        return None
    if settings.otlp_endpoint is None:
        return Traces(OTLPSpanExporter())
    return Traces(OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"))


def _attributes(visit: Visit) -> dict[str, str | int | float | list[str]]:
    about: dict[str, str | int | float | list[str]] = {
        "http.request.method": visit.method,
        "http.route": visit.route,
        "tiller.request_id": visit.id,
    }
    if visit.status is not None:
        about["http.response.status_code"] = visit.status
    if visit.refused is not None:
        about["error.type"] = visit.refused
    if visit.rows:
        about |= {
            "tiller.steering.mode": visit.mode,
            "tiller.steering.probes": list(visit.probes),
            "tiller.rows": visit.rows,
            "gen_ai.usage.input_tokens": visit.prompt_tokens,
            "gen_ai.usage.output_tokens": visit.tokens,
            "gen_ai.response.finish_reasons": sorted(visit.finish_reasons),
        }
    timings = [completion.timing for completion in visit.completions if completion.timing is not None]
    if timings:  # of several rows the slowest: the one that was waited for
        about |= {
            "tiller.queue_seconds": max(timing.queued for timing in timings),
            "tiller.prefill_seconds": max(timing.prefill for timing in timings),
            "tiller.decode_seconds": max(timing.decode for timing in timings),
        }
    return about
