"""The outbox relay: publishes the rows of an outbox, and marks those that the broker confirmed.

A row that was sent is sent again if the relay dies before it marks it: at least once.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

from allocation.messaging.publisher import Outgoing, Publisher

BATCH = 500
"""Rows that are sent at once, at most."""
MARK_EVERY = 0.05  # seconds

Key = Callable[[Any], str | None]
"""Rows of the same key keep their order; a row without a key has none."""


class Refused(Exception):
    """The broker refused a message: its queue is full, missing, or not bound."""


OUTAGES = (DBAPIError, Refused)
"""After these the relay connects again, as after the connection's own errors."""


class Outbox(Protocol):
    """Rows in their order; each has a `position`, and the `id` of its message."""

    def pending(self, limit: int, besides: Sequence[int]) -> Sequence[Any]:
        """The oldest unmarked rows, without those at the positions `besides`."""
        ...

    def mark_sent(self, positions: Sequence[int]) -> None:
        """Never return the rows at these positions again."""
        ...


class InFlight:
    """Rows that were sent and are not marked yet, in their order.

    Many rows are marked together, as each mark costs a step of the broker and of the database.
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
        """Whether MARK_EVERY seconds have passed."""
        return bool(self.rows) and time.monotonic() - self._marked_at > MARK_EVERY

    def send(self) -> int:
        """Send the oldest pending rows, at most BATCH; returns how many."""
        rows = self._outbox.pending(BATCH, besides=[row.position for row in self.rows])
        if rows and not self.rows:
            self._marked_at = time.monotonic()
        self._sent_at |= dict.fromkeys((row.id for row in rows), time.monotonic())
        with self._messages(rows) as messages:
            self._publisher.send(messages)
        self.rows += rows
        return len(rows)

    def mark(self, most: int | None = None) -> Sequence[Any]:
        """Mark the confirmed rows; returns those that the broker refused.

        Waits until at most `most` rows are unconfirmed; by default it does not wait.
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
    """The confirmed rows, without those that follow an unconfirmed row of their key.

    If that row was refused, they are sent again after it: so the rows of each key are delivered in
    order at least once.
    """
    done, held = [], set()
    for row in rows:
        if row.id in confirmed and key(row) not in held:
            done.append(row)
        elif key(row) is not None:
            held.add(key(row))
    return done
