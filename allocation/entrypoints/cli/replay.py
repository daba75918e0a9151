"""`allocation replay`: the kept events go to one queue again, and its subscriber catches up."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime
from functools import partial
from typing import Any

from kombu import Connection

from allocation import bootstrap
from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.outbox_messages import outgoing
from allocation.adapters.sql.event_log import EventLog, Stretch
from allocation.entrypoints.cli.terminal import console, fail, misused, progress, reaching
from allocation.messaging.publisher import Outgoing, Publisher, publish, publisher

CHUNK = 500
"""Events that are read and sent at once."""
MOST_WAITING = 10_000
"""Events that may wait in the queue before more are sent: new ones come behind them."""
PATIENCE = 60.0
"""Seconds without a message taken from a queue that long, after which nobody seems to consume."""


def replay(queue: str, since: str | None, sku: str | None, *, as_json: bool) -> None:
    """Send the kept events again to one queue, in order; what took effect there does so once."""
    _refuse_what_takes_no_events(queue)
    moment = None if since is None else _moment(since)
    log = EventLog(bootstrap.engine(bootstrap.settings().database_url))
    if sku is not None and not reaching("the database", lambda: log.knows(sku)):
        fail(f"no product has the sku {sku}: the first batch of a sku makes it known")
    with bootstrap.broker() as connection:
        # The queue first: what is sent before it is there, must be in the stretch.
        if reaching("the broker", lambda: topology.depth(connection, queue)) is None:
            known = ", ".join(topology.SUBSCRIBERS)
            fail(
                f"there is no queue {queue}: `allocation topology` declares {known}, any other"
                " subscriber declares its own and binds it to the exchange allocation.events"
            )
        stretch = reaching("the database", lambda: log.stretch(moment, sku))
        with progress(queue, stretch.count, quiet=as_json) as advance:
            sent = send(log, stretch, queue, connection, advance)
    if as_json:
        console.print_json(json.dumps({"queue": queue, "sent": sent}))
    else:
        console.print(
            f"{sent} {'event was' if sent == 1 else 'events were'} sent again to {queue}."
        )


def send(
    log: EventLog,
    stretch: Stretch,
    queue: str,
    connection: Connection,
    advance: Callable[[int], None],
) -> int:
    """Send the stretch, each chunk once the broker has the one before; how many events it had."""
    sender = reaching("the broker", lambda: _publisher(connection))
    chunks = log.read(stretch, CHUNK)
    sent = 0
    while rows := reaching("the database", lambda: next(chunks, None)):
        taken = reaching("the broker", partial(_send_chunk, connection, sender, queue, rows))
        sent += taken
        advance(taken)
        if taken < len(rows):
            fail(
                f"{queue} took {sent} of {stretch.count} events and refused the next: is it full?"
                " Let its subscriber catch up, then replay again: repeats have no effect"
            )
    return sent


def _publisher(connection: Connection) -> Publisher:
    return publisher(connection, bind=topology.bind, require=topology.require)


def _send_chunk(connection: Connection, sender: Publisher, queue: str, rows: Sequence[Any]) -> int:
    _wait_for_room(connection, queue)
    return len(publish(sender, [_again(row, queue) for row in rows]))


def _again(row: Any, queue: str) -> Outgoing:
    """The message that the relay sent, to this queue alone and known as a repetition."""
    mark = "first" if row.begins else "next"
    sent = outgoing(row, row.traceparent)
    return changed(sent, exchange="", routing_key=queue, headers={"x-replay": mark})


def _wait_for_room(connection: Connection, queue: str) -> None:
    least, seen_at = None, time.monotonic()
    while (waiting := topology.depth(connection, queue) or 0) > MOST_WAITING:
        if least is None or waiting < least:
            least, seen_at = waiting, time.monotonic()
        elif time.monotonic() - seen_at > PATIENCE:
            fail(
                f"{waiting} messages wait in {queue} and nobody takes them: start its subscriber,"
                " then replay again: repeats have no effect"
            )
        time.sleep(0.2)  # between two looks at the queue's length


def _refuse_what_takes_no_events(queue: str) -> None:
    others = set(topology.names()) - set(topology.SUBSCRIBERS)
    if queue in others or queue.endswith(".dead"):
        known = ", ".join(topology.SUBSCRIBERS)
        misused(f"{queue} takes no events: name a subscriber's queue, such as {known}")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        misused(f"--since {text} is no time: write it like 2030-01-31 or 2030-01-31T12:00, in UTC")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
