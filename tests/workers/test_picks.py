from workers.warehouse.messages import Allocated, Deallocated
from workers.warehouse.picks import Pick, cancel_pick, open_pick

ALLOCATED = Allocated("o1", "LAMP", 3, "b1")


def test_a_pick_opens_on_allocated() -> None:
    assert open_pick([], ALLOCATED, 4) == Pick("o1", "LAMP", 3, "b1", opened=4)


def test_a_pick_is_cancelled_on_deallocated() -> None:
    pick = Pick("o1", "LAMP", 3, "b1", opened=4)

    cancel_pick([pick], Deallocated("o1", "LAMP", 3, "b1"), 5)

    assert pick.closed == 5


def test_a_cancelled_pick_stays_as_it_is() -> None:
    pick = Pick("o1", "LAMP", 3, "b1", opened=4, closed=5)

    cancel_pick([pick], Deallocated("o1", "LAMP", 3, "b1"), 9)

    assert pick.closed == 5


def test_a_cancellation_of_another_batch_leaves_the_pick_open() -> None:
    pick = Pick("o1", "LAMP", 3, "b1", opened=4)

    cancel_pick([pick], Deallocated("o1", "LAMP", 3, "b2"), 5)
    cancel_pick([pick], Deallocated("o1", "LAMP", 3, None), 6)

    assert pick.closed is None


def test_a_pick_that_was_never_heard_of_is_noted_as_cancelled() -> None:
    """So that the allocation opens nothing when it comes too late."""
    noted = cancel_pick([], Deallocated("o1", "LAMP", 3, "b1"), 5)

    assert noted == Pick("o1", "LAMP", 3, "b1", opened=5, closed=5)
    assert open_pick([noted], ALLOCATED, 4) is None


def test_a_line_that_was_still_waiting_has_nothing_to_cancel() -> None:
    assert cancel_pick([], Deallocated("o1", "LAMP", 3, None), 5) is None


def test_a_line_has_one_open_pick_at_most() -> None:
    """When the event that should have cancelled the old one is missing, the new one does."""
    old = Pick("o1", "LAMP", 3, "b0", opened=4)

    new = open_pick([old], ALLOCATED, 8)

    assert (old.closed, new) == (8, Pick("o1", "LAMP", 3, "b1", opened=8))


def test_an_allocation_that_comes_too_late_opens_nothing() -> None:
    """Later events of the line have been followed already."""
    newer = Pick("o1", "LAMP", 3, "b2", opened=8)

    assert open_pick([newer], ALLOCATED, 4) is None
    assert newer.closed is None


def test_a_cancellation_that_comes_too_late_leaves_the_newer_pick_alone() -> None:
    newer = Pick("o1", "LAMP", 3, "b1", opened=8)

    cancel_pick([newer], Deallocated("o1", "LAMP", 3, "b1"), 5)

    assert newer.closed is None
