"""Operations: how far relay and workers are behind, what waits in the queues, and dead letters."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar
from urllib.parse import urlsplit

import structlog
from amqp.exceptions import AMQPError
from flask import Blueprint, Response, redirect, render_template, request, url_for
from kombu import Connection
from kombu.exceptions import OperationalError
from werkzeug.wrappers import Response as AnyResponse

from allocation import bootstrap
from allocation.adapters import topology
from allocation.adapters.dead_letter_queues import (
    NoSuchQueue,
    Selection,
    by_cause,
    deliver_again,
    selected,
    summary,
)
from allocation.adapters.dead_letters import DeadLetter
from allocation.api.pages import sheets
from allocation.api.parameters import number
from allocation.api.problems import Problem
from allocation.api.reading import snapshot
from allocation.views import Json, progress

log = structlog.get_logger(__name__)

MOST = 500
"""Letters of each queue that a page looks at, or delivers again, at most: its oldest."""

MANAGEMENT_PORT = 15672

_LETTER = ("id", "queue", "reason", "name", "attempts", "first", "last", "error")

T = TypeVar("T")


def register(blueprint: Blueprint) -> None:
    blueprint.get("/operations")(operations)
    blueprint.get("/operations/dead-letters")(dead_letters)
    blueprint.get("/operations/dead-letters.csv")(dead_letters_sheet)
    blueprint.post("/operations/dead-letters/replay")(replay)


def operations() -> str:
    with snapshot() as connection:
        figures = progress.figures(connection, bootstrap.settings().resend_after)
    depths, trouble = _asked(_depths)
    return render_template(
        "pages/operations.html",
        figures=figures,
        depths=depths,
        dead_queues=topology.dead_queues(),
        trouble=trouble,
        flower=_link(bootstrap.settings().flower_link, bootstrap.settings().flower_port),
        management=_management(),
    )


def dead_letters() -> str | Response:
    """By their causes; those that fit the filter each with all that is known of it.

    A page that has seen this many of each queue is told that there is nothing new: to look at the
    letters takes them from everybody else for a moment.
    """
    selection = _selection(request.args)
    seen, trouble = _asked(_dead_depths)
    if seen is not None and seen == request.headers.get("X-Seen"):
        return Response(status=204)
    found: list[DeadLetter] = []
    if trouble is None:
        letters, trouble = _asked(lambda connection: _letters(connection, selection))
        found = letters or []
    return render_template(
        "pages/dead_letters.html",
        causes=by_cause(found),
        letters=[_shown(letter) for letter in found] if not selection.is_everything else [],
        selection=selection,
        replayed=number(request.args.get("replayed")),
        trouble=trouble,
        most=MOST,
        seen=seen or "",
    )


def dead_letters_sheet() -> Response:
    selection = _selection(request.args)
    letters, trouble = _asked(lambda connection: _letters(connection, selection))
    if letters is None:
        raise Problem(503, trouble, headers={"Retry-After": "5"})
    rows = [summary(letter) for letter in letters]
    return sheets.sheet("dead letters", _LETTER, lambda _: rows)


def replay() -> AnyResponse:
    """Deliver the letters again that the form names; what took effect before does so once."""
    selection = _selection(request.form)

    def deliver(connection: Connection) -> int:
        done = 0
        for letter in selected(connection, selection, _oldest):
            deliver_again(connection, letter)
            done += 1
        return done

    done, trouble = _asked(deliver)
    if done is None:
        raise Problem(503, trouble, headers={"Retry-After": "5"})
    return redirect(url_for("pages.dead_letters", replayed=done), 303)


def _asked(ask: Callable[[Connection], T]) -> tuple[T | None, str | None]:
    """What the broker says, or why it says nothing."""
    try:
        with bootstrap.confirming_broker() as connection:
            return ask(connection), None
    except NoSuchQueue as error:
        return None, f"{error}.".capitalize()
    except (OperationalError, AMQPError, OSError) as error:
        log.warning("the broker gives the page no answer", error=str(error) or repr(error))
        return None, "The broker gives no answer; the log of the API says why."


def _depths(connection: Connection) -> dict[str, int | None]:
    dead = topology.dead_queues()
    names = sorted(topology.names(), key=lambda name: name in dead)
    return {name: topology.depth(connection, name) for name in names}


def _dead_depths(connection: Connection) -> str:
    return ".".join(str(topology.depth(connection, queue)) for queue in topology.dead_queues())


def _letters(connection: Connection, selection: Selection) -> list[DeadLetter]:
    return list(selected(connection, selection, _oldest))


def _oldest(letters: Iterator[DeadLetter], _queue: str, _waiting: int) -> Iterable[DeadLetter]:
    return islice(letters, MOST)


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
    body = message.body
    return {
        **summary(letter),
        "traceback": headers.pop("x-traceback", None),
        "headers": headers,
        "body": body if isinstance(body, str) else bytes(body).decode("utf-8", "backslashreplace"),
    }


def _management() -> str | None:
    """Where RabbitMQ's own page is; the embedded broker has none."""
    settings = bootstrap.settings()
    if settings.broker_transport is not None:
        return None
    return _link(settings.broker_link, MANAGEMENT_PORT)


def _link(given: str, port: int) -> str:
    """The address that the settings give, or that port of the host by which this page was asked."""
    host = urlsplit(request.host_url).hostname
    return given or f"http://{f'[{host}]' if host and ':' in host else host}:{port}"
