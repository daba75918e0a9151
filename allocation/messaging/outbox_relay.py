"""The outbox relay: sends the rows of an outbox to the broker, and marks those that the broker has.

A row counts as sent only when it is marked. Dying in between means that it is sent again: at least
once.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from kombu import Connection
from sqlalchemy.exc import DBAPIError

from allocation.messaging import backoff
from allocation.messaging.publisher import Outgoing, Publisher

BATCH = 500
"""Rows that are sent at once, at most."""
MARK_EVERY = 0.05  # seconds
STABLE = 10.0
"""Seconds: the backoff starts anew if the broker could be used this long."""

Key = Callable[[Any], str | None]
"""What rows must keep their order among: those of the same key; None: with no other."""


class Refused(Exception):
    """The broker took a message into no queue: its queue is full, missing, or not bound."""


class Outbox(Protocol):
    """Rows in their order; each has a `position`, and the `id` of the message that it becomes."""

    def pending(self, limit: int, besides: Sequence[int]) -> Sequence[Any]:
        """The oldest rows that are not marked, less those at the positions `besides`."""
        ...

    def mark_sent(self, positions: Sequence[int]) -> None:
        """Never return the rows at these positions again."""
        ...


class InFlight:
    """Rows that were sent and are not marked yet, in their order.

    Rows are sent at once, and marked when the broker has confirmed them: many together, as that
    costs a step of the broker and one of the database.
    """

    def __init__(
        self,
        outbox: Outbox,
        publisher: Publisher,
        messages: Callable[[Sequence[Any]], AbstractContextManager[Sequence[Outgoing]]],
        key: Key,
        on_marked: Callable[[Sequence[Any], float], None] = lambda rows, seconds: None,
    ) -> None:
        """`messages` makes the messages of rows, and lasts while they are sent.

        `on_marked` is called with the rows and the seconds since the first of them was sent.
        """
        self.rows: list[Any] = []
        self._outbox = outbox
        self._publisher = publisher
        self._messages = messages
        self._key = key
        self._on_marked = on_marked
        self._settled: dict[str, bool] = {}
        self._marked_at = 0.0
        self._sent_at: dict[str, float] = {}

    @property
    def is_mark_due(self) -> bool:
        """Whether it is time to mark what was confirmed."""
        return bool(self.rows) and time.monotonic() - self._marked_at > MARK_EVERY

    def send(self) -> int:
        """Send the oldest rows that are pending; how many there were, of BATCH at most."""
        rows = self._outbox.pending(BATCH, besides=[row.position for row in self.rows])
        if rows and not self.rows:
            self._marked_at = time.monotonic()
        self._sent_at |= dict.fromkeys((row.id for row in rows), time.monotonic())
        with self._messages(rows) as messages:
            self._publisher.send(messages)
        self.rows += rows
        return len(rows)

    def mark(self, most: int | None = None) -> Sequence[Any]:
        """Mark the rows that the broker has; returns those that it refused.

        At most `most` rows may stay unconfirmed; by default this waits for none.
        """
        self._settled |= self._publisher.settle(len(self.rows) if most is None else most)
        if not all(self._settled.values()):
            self._settled |= self._publisher.settle(0)
        kept = {row_id for row_id, is_kept in self._settled.items() if is_kept}
        refused = [row for row in self.rows if not self._settled.get(row.id, True)]
        done = in_order(self.rows, kept, self._key)
        self._outbox.mark_sent([row.position for row in done])
        if done:
            self._on_marked(done, time.monotonic() - self._sent_at[done[0].id])
        for row in done:
            del self._settled[row.id], self._sent_at[row.id]
        marked = {row.id for row in done}
        self.rows = [row for row in self.rows if row.id not in marked]
        self._marked_at = time.monotonic()
        return refused


def in_order(rows: Sequence[Any], confirmed: Collection[str], key: Key) -> Sequence[Any]:
    """The confirmed rows, less those that overtook an unconfirmed one of their key.

    If that one was refused, they are sent again behind it: so the rows of each key come in order at
    least once.
    """
    done, held = [], set()
    for row in rows:
        if row.id in confirmed and key(row) not in held:
            done.append(row)
        elif key(row) is not None:
            held.add(key(row))
    return done


def relay_through_outages(
    stop: threading.Event,
    connect: Callable[[], Connection],
    relay: Callable[[Connection], float],
    on_outage: Callable[[Exception, float], None],
) -> None:
    """Call `relay` with a new connection until `stop` is set, and outlive outages.

    `relay` returns the seconds after which it is to be called again. If the database or the broker
    fails it, `on_outage` is called with the error and the seconds of the backoff.
    """
    failures = 0
    while not stop.is_set():
        connection = connect()
        lost = (OSError, *connection.connection_errors, *connection.channel_errors)
        began = time.monotonic()
        try:
            seconds = relay(connection)
            failures = 0
        except (DBAPIError, Refused, *lost) as error:
            connection.collect()  # without a goodbye, which may have no answer
            failures = 1 if time.monotonic() - began > STABLE else failures + 1
            seconds = backoff.seconds(failures)
            on_outage(error, seconds)
        finally:
            connection.release()
        stop.wait(seconds)


def is_missing(error: Exception) -> bool:
    """Whether the broker says that it has no such queue or exchange."""
    return str(getattr(error, "reply_code", "")) == "404"
