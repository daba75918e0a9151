"""`allocation replay`: the kept events go to one queue again, and its subscriber catches up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allocation.entrypoints.cli.terminal import (
    ask_broker,
    ask_database,
    counted,
    fail,
    misused,
    print_answer,
    progress,
)
from allocation.messaging.command_line import AsJson

if TYPE_CHECKING:
    from kombu import Connection

    from allocation.adapters.sql.event_log import EventLog, Stretch
    from allocation.settings import Settings

CHUNK = 500
"""Events that are read and sent at once."""
MOST_WAITING = 10_000
"""Events that may wait in the queue before more are sent: new ones come behind them."""
NO_CONSUMER = 60.0
"""Seconds without a message taken from a queue that long, after which nobody seems to consume."""


def _subscribers() -> list[str]:
    from allocation.adapters.rabbitmq import topology

    return list(topology.SUBSCRIBERS)


def replay(
    queue: Annotated[
        str,
        typer.Option(
            help="The subscriber's queue, such as warehouse.events.", autocompletion=_subscribers
        ),
    ],
    since: Annotated[
        str | None,
        typer.Option(help="Only events since this time, such as 2030-01-31T12:00 (UTC)."),
    ] = None,
    sku: Annotated[str | None, typer.Option(help="Only the events of this product.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send the stored events to one queue again, in order; repeats have no second effect."""
    from allocation import bootstrap
    from allocation.adapters.rabbitmq import topology
    from allocation.adapters.sql.event_log import EventLog

    known = ", ".join(topology.SUBSCRIBERS)
    others = set(topology.names()) - set(topology.SUBSCRIBERS)
    if queue in others or queue.endswith(".dead"):
        misused(f"{queue} is not a queue for events: name a subscriber's queue, such as {known}")
    moment = None if since is None else _moment(since)
    dependencies = bootstrap.build()
    settings, log = dependencies.settings, EventLog(dependencies.engine)
    if sku is not None and not ask_database(settings, lambda: log.knows(sku)):
        fail(f"no product has the sku {sku}: the first batch of a sku makes it known")
    with dependencies.broker() as connection:
        # The queue first: what is sent before it is there, must be in the stretch.
        if ask_broker(settings, lambda: topology.depth(connection, queue)) is None:
            fail(
                f"there is no queue {queue}: `allocation topology` declares {known}, any other"
                " subscriber declares its own and binds it to the exchange allocation.events"
            )
        stretch = ask_database(settings, lambda: log.stretch(moment, sku))
        with progress(queue, stretch.count, quiet=as_json) as advance:
            sent = _send(settings, log, stretch, queue, connection, advance)
    events = counted(sent, "event was", "events were")
    print_answer(
        f"{events} sent again to {queue}.", {"queue": queue, "sent": sent}, as_json=as_json
    )


def _send(
    settings: "Settings",
    log: "EventLog",
    stretch: "Stretch",
    queue: str,
    connection: "Connection",
    advance: Callable[[int], None],
) -> int:
    """Send the stretch, each chunk once the broker has the one before; how many events it had."""
    from allocation.adapters.rabbitmq import topology
    from allocation.adapters.rabbitmq.outbox_messages import outgoing
    from allocation.messaging.publisher import Outgoing, publish, publisher

    def again(row: Any) -> Outgoing:
        """The message that the relay sent, to this queue alone and known as a repetition."""
        mark = {"x-replay": "first" if row.begins else "next"}
        sent = outgoing(row, row.traceparent)
        return changed(sent, exchange="", routing_key=queue, headers=mark)

    def send_chunk(rows: Sequence[Any]) -> int:
        _wait_for_room(connection, queue)
        return len(publish(sender, [again(row) for row in rows]))

    sender = ask_broker(
        settings, lambda: publisher(connection, bind=topology.bind, require=topology.require)
    )
    chunks = log.read(stretch, CHUNK)
    sent = 0
    while rows := ask_database(settings, lambda: next(chunks, None)):
        taken = ask_broker(settings, partial(send_chunk, rows))
        sent += taken
        advance(taken)
        if taken < len(rows):
            fail(
                f"{queue} accepted {sent} of {stretch.count} events and refused the next: is it"
                " full? Let its subscriber catch up, then replay again: repeats have no"
                " effect"
            )
    return sent


def _wait_for_room(connection: "Connection", queue: str) -> None:
    from allocation.adapters.rabbitmq import topology

    least, seen_at = None, time.monotonic()
    while (waiting := topology.depth(connection, queue) or 0) > MOST_WAITING:
        if least is None or waiting < least:
            least, seen_at = waiting, time.monotonic()
        elif time.monotonic() - seen_at > NO_CONSUMER:
            fail(
                f"{waiting} messages wait in {queue} and no consumer takes them: start its"
                " subscriber, then replay again: repeats have no effect"
            )
        time.sleep(0.2)  # between two looks at the queue's length


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        misused(
            f"--since {text} is not a time: write it like 2030-01-31 or 2030-01-31T12:00, in UTC"
        )
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
