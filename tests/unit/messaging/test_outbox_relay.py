from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from allocation.messaging.outbox_relay import (
    BATCH,
    InFlight,
    in_order,
)
from allocation.messaging.publisher import Outgoing


@dataclass(frozen=True)
class Row:
    position: int
    id: str
    key: str | None


@dataclass
class Rows:
    """An outbox in memory."""

    rows: list[Row]
    marked: list[int] = field(default_factory=list)

    def pending(self, limit: int, besides: Sequence[int]) -> Sequence[Row]:
        passed = {*self.marked, *besides}
        return [row for row in self.rows if row.position not in passed][:limit]

    def mark_sent(self, positions: Sequence[int]) -> None:
        self.marked += positions


@dataclass
class Broker:
    """Confirms what it is told to, and refuses the messages in `refuses`."""

    sent: list[str] = field(default_factory=list)
    confirmed: set[str] = field(default_factory=set)
    refuses: set[str] = field(default_factory=set)
    _said: set[str] = field(default_factory=set)

    def send(self, messages: Sequence[Outgoing]) -> None:
        self.sent += [message.id for message in messages]

    def settle(self, most: int) -> dict[str, bool]:
        unsettled = [each for each in self.sent if each not in self._said]
        ready = [each for each in unsettled if each in self.confirmed | self.refuses]
        late = [each for each in unsettled if each not in ready]
        # As a broker does that is waited for: it confirms the oldest ones in the end.
        ready += late[: max(0, len(late) - most)]
        self._said |= {*ready}
        return {each: each not in self.refuses for each in ready}


@contextmanager
def messages(rows: Sequence[Row]) -> Iterator[Sequence[Outgoing]]:
    yield [Outgoing(row.id, "events", "", "{}", "application/json") for row in rows]


def rows(keys: str) -> list[Row]:
    """One for each letter, which is its key; `.` has none. Their ids are a, b, c ..."""
    return [
        Row(number, chr(ord("a") + number), None if key == "." else key)
        for number, key in enumerate(keys)
    ]


def in_flight(outbox: Rows, broker: Broker) -> InFlight:
    return InFlight(outbox, broker, messages, lambda row: row.key)


def test_rows_are_sent_once_and_in_order_while_none_is_confirmed() -> None:
    outbox, broker = Rows(rows("LLC")), Broker()
    flight = in_flight(outbox, broker)

    assert (flight.send(), flight.send()) == (3, 0)
    assert flight.mark() == []

    assert (broker.sent, outbox.marked, len(flight.rows)) == (["a", "b", "c"], [], 3)


def test_confirmed_rows_are_marked_and_the_others_stay_in_flight() -> None:
    outbox, broker = Rows(rows("LC.")), Broker(confirmed={"b", "c"})
    flight = in_flight(outbox, broker)
    flight.send()

    refused = flight.mark()

    assert (refused, outbox.marked) == ([], [1, 2])
    assert [row.id for row in flight.rows] == ["a"]


def test_marking_waits_until_few_enough_are_unconfirmed() -> None:
    outbox, broker = Rows(rows("LLC.")), Broker()
    flight = in_flight(outbox, broker)
    flight.send()

    flight.mark(most=1)
    after_first = list(outbox.marked)
    flight.mark(most=0)

    assert (after_first, outbox.marked, flight.rows) == ([0, 1, 2], [0, 1, 2, 3], [])


def test_what_overtook_a_refused_row_of_its_key_is_sent_again_behind_it() -> None:
    outbox, broker = Rows(rows("LCLC.")), Broker(refuses={"a"})
    flight = in_flight(outbox, broker)
    flight.send()

    refused = flight.mark()

    assert ([row.id for row in refused], outbox.marked) == (["a"], [1, 3, 4])
    again = Broker()
    in_flight(outbox, again).send()
    assert again.sent == ["a", "c"]


def test_no_more_than_a_batch_is_sent_at_once() -> None:
    outbox, broker = Rows([Row(number, str(number), None) for number in range(BATCH + 1)]), Broker()
    flight = in_flight(outbox, broker)

    assert (flight.send(), flight.send()) == (BATCH, 1)
    assert broker.sent == [str(number) for number in range(BATCH + 1)]


def test_marked_rows_are_reported_with_the_time_since_the_first_was_sent() -> None:
    outbox, broker = Rows(rows("L.")), Broker(confirmed={"a", "b"})
    marked: list[tuple[list[str], bool]] = []
    flight = InFlight(
        *(outbox, broker, messages, lambda row: row.key),
        on_marked=lambda done, seconds: marked.append(([row.id for row in done], seconds >= 0)),
    )
    flight.send()
    flight.mark()
    flight.mark()

    assert marked == [(["a", "b"], True)]


@pytest.mark.parametrize(
    ("keys", "confirmed", "done"),
    [
        ("LCLC.", "bcde", "bde"),
        ("LLL", "ac", "a"),
        ("...", "bc", "bc"),
        ("LC", "", ""),
    ],
)
def test_rows_behind_an_unconfirmed_one_of_their_key_are_not_done(
    keys: str, confirmed: str, done: str
) -> None:
    found = in_order(rows(keys), set(confirmed), lambda row: row.key)

    assert [row.id for row in found] == [*done]
