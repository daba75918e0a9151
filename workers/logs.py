"""Logs of the subscribers: one line a happening, for people or as JSON."""

import io
import logging
import sys
from contextlib import AbstractContextManager, suppress
from io import StringIO
from typing import TextIO, cast

import structlog

from allocation.messaging.cloudevents import Envelope
from workers.escaping import escaped
from workers.settings import Settings


class _Output(io.TextIOBase):
    """Drops what can't be written, such as on a full disk: that must not end a process."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def configure(settings: Settings) -> None:
    """Write log lines to stderr in the format that the settings ask for."""
    renderers: list[structlog.types.Processor]
    if settings.allocation_log_format == "json":
        renderers = [structlog.processors.JSONRenderer()]
    else:
        renderers = [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_traceback
            ),
        ]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Output(sys.stderr))),
    )


def _escape(_: object, _name: str, line: structlog.types.EventDict) -> structlog.types.EventDict:
    """Escape untrusted text: it must not control a terminal or begin a log line of its own."""
    return {
        name: escaped(value, lines=name in ("event", "exception")) if type(value) is str else value
        for name, value in line.items()
    }


def _traceback(out: TextIO, exc_info: structlog.types.ExcInfo) -> None:
    written = StringIO()
    structlog.dev.plain_traceback(written, exc_info)
    out.write(escaped(written.getvalue(), lines=True))


def about(event: Envelope) -> AbstractContextManager[None]:
    """Every line that is logged inside names the event."""
    return structlog.contextvars.bound_contextvars(**names(event))


def names(event: Envelope) -> dict[str, object]:
    """What a line about the event names it by."""
    known: dict[str, object] = {
        "event_id": str(event.id),
        "type": event.type,
        "sku": event.subject,
        "sequence": event.sequence,
        "command_id": event.body.get("causationid"),
        "command": event.causationtype,
        "orderid": event.data.get("orderid"),
        "trace_id": event.trace_id,
    }
    # What is no text says nothing.
    return {name: value for name, value in known.items() if isinstance(value, (str, int))}
