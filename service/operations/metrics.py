"""What Prometheus is told, under the names of vLLM's metrics with our prefix; `docs/operations.md` lists them.

`Metrics` is an `Observer` of the engine: counters go up in the engine's thread as things happen, a microsecond each.
What is a state rather than an event (rows that run, room that is taken, probes) is read when somebody asks; that takes
no lock the engine holds over a step. One registry per app, so that several may live in one process. The labels are ours
(modes, reasons, ids of loaded probes), never a caller's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.errors import ApiError, describe
from service.operations.visits import Visit
from service.resident import Loaded, Resident
from steering.engine import Observer
from steering.errors import TillerError
from steering.requests import Completion

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_DOSES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 5)
_FAILURES = ("deadline_exceeded", "engine_unavailable", "internal_error", "not_enough_memory", "steering_not_applied")
_PROBABILITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1)


class Metrics(Observer):
    """The metrics of one server."""

    def __init__(self) -> None:
        self._resident: Resident | None = None
        self.registry = registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"tiller_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: Iterable[float], *labels: str) -> Histogram:
            return Histogram(f"tiller_{name}", about, labels, buckets=tuple(buckets), registry=registry)

        self._success = counter("request_success", "Continuations written to their end", "finished_reason")
        self._failed = counter("requests_failed", "Continuations that were queued and ended in an error", "reason")
        self._cancelled = counter("requests_cancelled", "Continuations whose caller left")
        self._rejected = counter("admission_rejections", "Requests for text refused before anything ran", "reason")
        self._prompt = counter("prompt_tokens", "Prompt tokens admitted, once per continuation")
        self._written = counter("generation_tokens", "Tokens drawn")
        self._ttft = histogram("time_to_first_token_seconds", "From the queue's door to the first token", _SECONDS)
        self._itl = histogram("inter_token_latency_seconds", "Between two tokens of a continuation", _GAPS)
        self._e2e = histogram("e2e_request_latency_seconds", "From the queue's door to the last token", _SECONDS)
        self._queued = histogram("request_queue_time_seconds", "In the queue", _SECONDS)
        self._batch = histogram("batch_size", "Continuations that get a token in one decoding step", _ROWS)

        self._modes = counter("steering_requests", "Requests for text that were queued", "mode")
        self._evaluated = counter("steering_evaluated", "Tokens the probe read", "probe")
        self._edited = counter("steering_edited", "Tokens moved at one layer at least", "probe")
        self._violations = counter("steering_violations", "Tokens stored outside a bound that was promised", "probe")
        self._capped = counter("steering_capped", "Tokens the budget left outside their bound", "probe")
        self._infeasible = counter("steering_infeasible", "Tokens at which a bound gave way to a contradicting one")
        self._dose = histogram("steering_dose", "Mean dose of a continuation with edits", _DOSES, "probe")
        self._probability = histogram(
            "steering_probability", "Highest probability in a continuation", _PROBABILITIES, "probe", "stage"
        )
        self._labelled = (self._evaluated, self._edited, self._violations, self._capped, self._dose)
        self._ids: set[str] = set()
        """Probes that are a label somewhere"""
        registry.register(_States(self))
        ProcessCollector(registry=registry)
        for metric, labels in (
            (self._success, ("stop", "length")),
            (self._modes, ("enforce", "monitor", "off", "none")),
            (self._failed, _FAILURES),
            (self._rejected, ("queue_full", "loading", "draining")),
        ):
            for label in labels:
                metric.labels(label)  # at 0: of a series that begins at 1, Prometheus misses the first

    def watch(self, resident: Resident) -> None:
        """Tell of what `resident` has, from now on."""
        self._resident = resident

    @property
    def loaded(self) -> Loaded | None:
        """What is there to tell of."""
        try:
            return None if self._resident is None else self._resident.get()
        except ApiError:
            return None

    def admitted(self, *, prompt_tokens: int, waited: float) -> None:
        self._prompt.inc(prompt_tokens)
        self._queued.observe(waited)

    def stepped(self, rows: int) -> None:
        self._batch.observe(rows)

    def first_token(self, seconds: float) -> None:
        self._written.inc()
        self._ttft.observe(seconds)

    def next_token(self, seconds: float) -> None:
        self._written.inc()
        self._itl.observe(seconds)

    def finished(self, completion: Completion) -> None:
        self._success.labels(completion.finish_reason).inc()
        if completion.timing is not None:
            self._e2e.observe(completion.timing.total)
        for probe, report in ({} if completion.steering is None else completion.steering.probes).items():
            self._ids.add(probe)
            self._evaluated.labels(probe).inc(report.tokens)
            self._edited.labels(probe).inc(report.edited)
            self._violations.labels(probe).inc(report.violations if report.promised else 0)
            self._capped.labels(probe).inc(report.capped)
            self._infeasible.inc(report.infeasible)
            if report.edited:
                self._dose.labels(probe).observe(report.mean_dose)
            if report.max_pre == report.max_pre:  # NaN of a probe without calibration
                self._probability.labels(probe, "pre").observe(report.max_pre)
                self._probability.labels(probe, "post").observe(report.max_post)

    def failed(self, error: BaseException) -> None:
        told = describe(error) if isinstance(error, TillerError) else None
        self._failed.labels("internal_error" if told is None else told.kind.code).inc()

    def cancelled(self) -> None:
        self._cancelled.inc()

    def visited(self, visit: Visit) -> None:
        """Count a request that has been answered."""
        if visit.rows:
            self._modes.labels(visit.mode).inc()
        elif visit.generates and visit.reason is not None:
            self._rejected.labels(visit.reason).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All of it in the format `accept` asks for, and that format's content type. Safe in any thread."""
        self._label_probes()
        encode, kind = choose_encoder(accept)
        return encode(_Lean(self.registry)), kind

    def _label_probes(self) -> None:
        """Begin the series of probes that are loaded, drop those of probes that are no longer."""
        loaded = self.loaded
        probes = set() if loaded is None else {probe.id for probe in tuple(loaded.probes)}
        for probe in probes - self._ids:
            self._ids.add(probe)
            for metric in self._labelled:
                metric.labels(probe)
        for probe in self._ids.copy() - probes:
            self._ids.discard(probe)
            for metric in (*self._labelled, self._probability):
                metric.remove_by_labels({"probe": probe})


class _States(Collector):
    """What is so at the moment of asking."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        loaded = self._metrics.loaded
        engine = None if loaded is None else loaded.engine
        yield GaugeMetricFamily(
            "tiller_num_requests_running", "Continuations in a slot", 0 if engine is None else engine.running
        )
        yield GaugeMetricFamily(
            "tiller_num_requests_waiting", "Continuations in the queue", 0 if engine is None else engine.waiting
        )
        yield GaugeMetricFamily(
            "tiller_cache_usage_ratio",
            "Share of the token budget that running continuations have reserved",
            0.0 if engine is None else engine.tokens / engine.cache_tokens,
        )
        info = InfoMetricFamily("tiller_probe", "Probes that are loaded", labels=("id",))
        if loaded is not None:
            for probe in tuple(loaded.probes):
                with suppress(KeyError):  # deleted meanwhile
                    info.add_metric((probe.id,), {"sha": loaded.probes.sha256(probe.id)})
        yield info


class _Lean(Collector):
    """A registry without the time each series was made at, which is two series for one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
