"""Logs: one line a happening, for people or as JSON, from our code and the libraries alike."""

import logging
import sys
from io import StringIO
from typing import Literal, TextIO

import structlog

from allocation.messaging.telemetry.escaping import escaped

Format = Literal["console", "json"]


def configure(form: Format, level: str = "INFO") -> None:
    """Send every log line of this process, from `level` on, to stderr in the format `form`.

    A line that can't be written, such as on a full disk, is dropped.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        # First what is below the level goes: every request has a line that few want to see.
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    last: list[structlog.types.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if form == "json":
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        last += [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_traceback
            ),
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    if root.level > logging.DEBUG:
        # A line for each command costs as much as to decide it; each batch has one of its own.
        # Alembic logs its plugins when it is imported.
        for name in ("celery.worker.strategy", "celery.app.trace", "alembic"):
            logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def _escape(_: object, _name: str, line: structlog.types.EventDict) -> structlog.types.EventDict:
    """Escape untrusted text: it must not control a terminal or begin a log line of its own."""
    return {
        name: escaped(value, lines=name in ("event", "exception")) if type(value) is str else value
        for name, value in line.items()
    }


def _traceback(out: TextIO, exc_info: structlog.types.ExcInfo) -> None:
    """Without the frames' variables: they hold addresses with passwords."""
    written = StringIO()
    structlog.dev.plain_traceback(written, exc_info)
    out.write(escaped(written.getvalue(), lines=True))
