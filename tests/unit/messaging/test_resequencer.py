"""The rule of order, without a database."""

from random import Random

import pytest

from allocation.messaging.resequencer import Due, ReorderBuffer
from tests.workers.conftest import envelope


def released(buffer: ReorderBuffer, *sequences: int) -> list[tuple[int, bool]]:
    """Add events with these sequences; the sequence and lateness of each that is then due."""
    for sequence in sequences:
        buffer.add(envelope("allocated", sequence))
    return [(due.event.sequence, due.late) for due in buffer.release()]


def test_an_event_is_due_when_its_sequence_is_the_next() -> None:
    buffer = ReorderBuffer(1)

    assert released(buffer, 1) == [(1, False)]
    assert buffer.next_sequence == 2


def test_an_early_event_is_held_back_until_the_gap_is_filled() -> None:
    buffer = ReorderBuffer(1)

    assert released(buffer, 3, 2) == []
    assert released(buffer, 1) == [(1, False), (2, False), (3, False)]


def test_events_are_released_up_to_the_next_gap() -> None:
    buffer = ReorderBuffer(1)

    assert released(buffer, 1, 2, 4, 5) == [(1, False), (2, False)]
    assert buffer.next_sequence == 3


def test_an_event_behind_the_next_sequence_is_late_and_due_at_once() -> None:
    buffer = ReorderBuffer(5)

    assert released(buffer, 3) == [(3, True)]
    assert buffer.next_sequence == 5


def test_a_buffer_that_goes_on_without_missing_events_starts_at_the_first_it_has() -> None:
    buffer = ReorderBuffer(1)
    assert released(buffer, 4, 5) == []

    buffer.next_sequence = 4

    assert released(buffer) == [(4, False), (5, False)]


def test_two_events_with_one_sequence_are_both_released_the_second_as_late() -> None:
    buffer, other = ReorderBuffer(1), envelope("deallocated", 1, sku="CHAIR")

    buffer.add(envelope("allocated", 1))
    buffer.add(other)

    assert buffer.release() == [Due(envelope("allocated", 1), False), Due(other, True)]


def test_an_event_is_released_once_however_often_it_is_added() -> None:
    assert released(ReorderBuffer(1), 1, 1, 2, 2) == [(1, False), (2, False)]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_arrival_is_released_in_sequence(seed: int) -> None:
    arrival = list(range(1, 30))
    Random(seed).shuffle(arrival)
    buffer = ReorderBuffer(1)

    seen = [due for sequence in arrival for due in released(buffer, sequence)]

    assert seen == [(sequence, False) for sequence in range(1, 30)]
