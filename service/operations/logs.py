"""Logs: one event a line, as JSON or for the eye, everything on standard error through one handler.

A line that belongs to a request carries its `request_id`. No line holds text of a prompt or a completion unless
`log_prompts` says so: requests are logged by route and numbers, and of an error that nobody foresaw the type and the
places in the code are told, not its message, which may repeat what was sent.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog
from structlog.types import Processor

from service.operations.visits import Visit
from service.settings import Settings

_QUIET = frozenset({"/health", "/ready", "/metrics", "/version"})
"""Asked every few seconds by machines: logged at level debug."""
_OWN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "transformers", "huggingface_hub")
"""Loggers whose libraries bring handlers of their own."""

log = logging.getLogger("tiller.access")


def access(*, texts: bool) -> Callable[[Visit], None]:
    """What logs one line for each visit that has ended; with `texts`, prompts and completions too."""

    def line(visit: Visit) -> None:
        fields: dict[str, Any] = {
            "method": visit.method if visit.method in _METHODS else "other",
            "route": visit.route,
            "status": visit.status,
            "milliseconds": round(1000 * visit.seconds, 1),
        }
        if visit.key is not None:
            fields["key"] = visit.key
        if visit.refused is not None:
            fields["code"] = visit.refused
        if visit.rows:
            fields |= {
                "mode": visit.mode,
                "probes": list(visit.probes),
                "rows": visit.rows,
                "prompt_tokens": visit.prompt_tokens,
                "tokens": visit.tokens,
                "finish_reasons": visit.finish_reasons,
            }
            if texts:
                fields |= {
                    "prompts": list(visit.prompts),
                    "completions": [completion.text for completion in visit.completions],
                }
        log.log(logging.DEBUG if visit.route in _QUIET else logging.INFO, "request", extra=fields)

    return line


@contextmanager
def logging_to(stream: TextIO, settings: Settings) -> Iterator[None]:
    """Send every log to `stream` while the block runs, then put all as it was."""
    terminal = stream.isatty()
    as_json = not terminal if settings.log_format is None else settings.log_format == "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(as_json=as_json, colours=terminal))
    level = settings.log_level.upper()
    root = logging.getLogger()
    before = [_state(logging.getLogger(name)) for name in ("", "tiller", *_OWN)]
    root.handlers = [*(kept for kept in root.handlers if not _to_terminal(kept)), handler]
    for name in _OWN:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True
        library.setLevel(level)
    for strange in ("", "transformers", "huggingface_hub"):  # what other libraries say in detail may be somebody's text
        logging.getLogger(strange).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("tiller").setLevel(level)
    try:
        yield
    finally:
        for put_back in before:
            put_back()


def formatter(*, as_json: bool, colours: bool = False) -> logging.Formatter:
    """Of every record, whoever made it."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _guarded,
    ]
    end: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=colours, pad_level=False)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, end]
    )


def _guarded(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An error by its type and places; of asyncio's messages the first line, for the others repeat what failed."""
    trouble = event.pop("exc_info", None)
    if trouble is True:
        trouble = sys.exc_info()
    error = trouble[1] if isinstance(trouble, tuple) else trouble
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["places"] = [
            f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
    for again in ("message", "color_message"):  # the same words once more
        event.pop(again, None)
    event["event"] = str(event["event"]).strip()
    if event.get("logger") == "asyncio":
        event["event"] = event["event"].partition("\n")[0]
    return event


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _to_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stderr, sys.stdout)


def _state(logger: logging.Logger) -> Callable[[], None]:
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate

    def put_back() -> None:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)

    return put_back
