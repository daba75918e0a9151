"""Operations: how far relay and workers are behind, what waits in the queues, and dead letters."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar
from urllib.parse import urlsplit

import structlog
from amqp.exceptions import AMQPError
from flask import Blueprint, Response, redirect, render_template, request, url_for
from kombu import Connection
from kombu.exceptions import OperationalError
from werkzeug.wrappers import Response as AnyResponse

from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.dead_letter_queues import (
    NoSuchQueue,
    Row,
    Selection,
    by_cause,
    deliver_again,
    selected,
    summary,
)
from allocation.adapters.sql import partitions
from allocation.entrypoints.api import state
from allocation.entrypoints.api.http.parsing import number
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.pages.csv_responses import csv_response
from allocation.entrypoints.api.state import snapshot
from allocation.messaging.dead_letters import DeadLetter, Incomplete
from allocation.views import Json, progress

log = structlog.get_logger(__name__)

MOST = 500
"""Dead letters of each queue that a page reads, or replays, at most: its oldest."""

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of bodies that a page reads from each queue: no message comes without its body."""

SHOWN_BYTES = 10_000
"""Bytes of a body that a page shows."""

MANAGEMENT_PORT = 15672

_COLUMNS = ("id", "queue", "reason", "name", "attempts", "first", "last", "error")

T = TypeVar("T")


def register(blueprint: Blueprint) -> None:
    blueprint.get("/operations")(operations)
    blueprint.get("/operations/dead-letters")(dead_letters)
    blueprint.get("/operations/dead-letters.csv")(dead_letters_csv)
    blueprint.post("/operations/dead-letters/replay")(replay)


def operations() -> str:
    settings = state.current().dependencies.settings
    with snapshot() as connection:
        now = progress.current(connection, settings.resend_after)
        held = partitions.holders(connection)
    depths, trouble = _asked(partial(_depths, queues=[each.queue for each in held]))
    return render_template(
        "pages/operations.html",
        now=now,
        depths=depths,
        workers={each.queue: each.worker for each in held},
        dead_queues=topology.dead_queues(),
        trouble=trouble,
        flower=_link(settings.flower_link, settings.flower_port),
        management=_management(),
    )


def dead_letters() -> str | Response:
    """Dead letters by cause; those that match the filter with all details.

    A page that was made with the present number of messages in each queue gets a 204: reading the
    messages hides them from other consumers for a moment.
    """
    selection = _selection(request.args)
    seen, trouble = _asked(_dead_depths)
    if seen is not None and seen == request.headers.get("X-Seen"):
        return Response(status=204)
    shown: list[Json] = []

    def look(connection: Connection) -> list[Row]:
        shown.clear()
        return by_cause(noted(selected(connection, selection, _oldest)))

    def noted(letters: Iterator[DeadLetter]) -> Iterator[DeadLetter]:
        for letter in letters:
            if not selection.is_everything:
                shown.append(_shown(letter))
            yield letter

    causes: list[Row] | None = None
    if trouble is None:
        causes, trouble = _asked(look)
    return render_template(
        "pages/dead_letters.html",
        causes=causes or [],
        letters=shown,
        selection=selection,
        replayed=number(request.args.get("replayed")),
        trouble=trouble,
        most=MOST,
        seen=seen or "",
    )


def dead_letters_csv() -> Response:
    selection = _selection(request.args)

    def look(connection: Connection) -> list[Row]:
        return [summary(letter) for letter in selected(connection, selection, _oldest)]

    rows = _required(look)
    return csv_response("dead letters", _COLUMNS, lambda _: rows)


def replay() -> AnyResponse:
    """Replay the dead letters that the form names; what took effect before does so once."""
    selection = _selection(request.form)

    refused: list[str] = []

    def deliver(connection: Connection) -> int:
        done = 0
        for letter in selected(connection, selection, _oldest):
            try:
                deliver_again(connection, letter)
            except Incomplete as error:
                refused.append(str(error))
            else:
                done += 1
        return done

    done = _required(deliver)
    if refused and not done:
        raise Problem(409, f"{refused[0]}.")
    return redirect(url_for("pages.dead_letters", replayed=done), 303)


def _asked(ask: Callable[[Connection], T]) -> tuple[T | None, str | None]:
    """The answer of the broker, or why there is none."""
    try:
        with state.current().dependencies.confirming_broker() as connection:
            return ask(connection), None
    except NoSuchQueue as error:
        return None, f"{error}.".capitalize()
    except (OperationalError, AMQPError, OSError) as error:
        log.warning("the broker does not respond", error=str(error) or repr(error))
        return None, "The broker does not respond; the log of the API has the error."


def _required(ask: Callable[[Connection], T]) -> T:
    """The answer of the broker. Raises a 503 if there is none."""
    said, trouble = _asked(ask)
    if said is None:
        raise Problem(503, trouble, headers={"Retry-After": "5"})
    return said


def _depths(connection: Connection, queues: Sequence[str]) -> dict[str, int | None]:
    dead = topology.dead_queues()
    names = sorted(topology.names(queues), key=lambda name: name in dead)
    return {name: topology.depth(connection, name) for name in names}


def _dead_depths(connection: Connection) -> str:
    return ".".join(str(topology.depth(connection, queue)) for queue in topology.dead_queues())


def _oldest(letters: Iterator[DeadLetter], _queue: str, _waiting: int) -> Iterable[DeadLetter]:
    taken = 0
    for letter in islice(letters, MOST):
        yield letter
        taken += len(letter.message.body or b"")
        if taken > MOST_BYTES:
            return


def _selection(asked: dict[str, str]) -> Selection:
    """The filter of the request: what is empty is not asked."""
    given = {name: asked[name] for name in ("queue", "reason", "name") if asked.get(name)}
    ids = (asked["id"],) if asked.get("id") else ()
    try:
        return Selection(ids, **given)
    except NoSuchQueue as error:
        raise Problem(422, f"{error}.") from error


def _shown(letter: DeadLetter) -> Json:
    message = letter.message
    headers = {name: str(value) for name, value in (message.headers or {}).items()}
    body = message.body or b""
    start = body[:SHOWN_BYTES]
    text = start if isinstance(start, str) else bytes(start).decode("utf-8", "backslashreplace")
    if more := len(body) - len(start):
        text += f"\n... and {more} bytes more: `allocation dead show` prints them."
    return {
        **summary(letter),
        "traceback": headers.pop("x-traceback", None),
        "headers": headers,
        "body": text,
    }


def _management() -> str | None:
    """Where RabbitMQ's own page is; the embedded broker has none."""
    settings = state.current().dependencies.settings
    if settings.broker_transport is not None:
        return None
    return _link(settings.broker_link, MANAGEMENT_PORT)


def _link(given: str, port: int) -> str:
    """The address that the settings give, or that port of the host by which this page was asked."""
    host = urlsplit(request.host_url).hostname
    return given or f"http://{f'[{host}]' if host and ':' in host else host}:{port}"
