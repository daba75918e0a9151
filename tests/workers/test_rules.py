from workers.notification import messages as notification
from workers.notification import rules
from workers.notification.ledger import Entry, Ledger, Served
from workers.warehouse.messages import Allocated, Deallocated
from workers.warehouse.rules import Pick, cancel_pick, open_pick

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


def test_the_stock_team_hears_of_a_line_that_waits() -> None:
    mail = rules.out_of_stock(notification.OutOfStock("o1", "LAMP", 3))

    assert (mail.team, mail.subject) == ("stock", "Out of stock: 3 x LAMP for order o1")


def test_the_orders_team_hears_of_a_line_that_moved() -> None:
    mail = rules.moved(notification.Allocated("o1", "LAMP", 3, "b2"), {"b1": 3}, waiting=0)

    assert (mail.team, mail.subject) == ("orders", "Order o1 moved to batch b2")
    assert "b1" in mail.text


def test_a_line_that_does_not_move_as_a_whole_is_mailed_with_the_pieces_that_do() -> None:
    message = notification.Allocated("o1", "LAMP", 3, "b2")

    mails = [rules.moved(message, {"b1": 3}, waiting=1), rules.moved(message, {"b1": 2}, waiting=0)]

    assert [mail.subject for mail in mails] == [
        "Order o1: 3 of the pieces moved to batch b2",
        "Order o1: 2 of the pieces moved to batch b2",
    ]


def test_the_stock_team_hears_how_many_pieces_still_wait() -> None:
    mail = rules.still_out_of_stock(
        notification.Allocated("o1", "LAMP", 3, "b2", part=1, waiting=4), served=2
    )

    assert mail == rules.Mail(
        "stock",
        "Still out of stock: 4 x LAMP for order o1",
        "The batch b2 serves 2 x LAMP that the order o1 waited for.\nStill waiting: 4 x LAMP.\n",
    )


def test_a_first_promise_and_a_return_to_the_same_batch_are_no_moves() -> None:
    ledger = Ledger()

    first = ledger.serve(part=0, batchref="b1", qty=3, waiting=0, sequence=1)
    ledger.leave(Entry(0, "b1", 3, sequence=2))
    again = ledger.serve(part=0, batchref="b1", qty=3, waiting=0, sequence=3)

    assert (first, again, ledger.entries) == (Served({}, 0), Served({}, 0), [])
