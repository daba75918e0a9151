from workers.notification.ledger import Entry, Ledger, Served


def test_a_first_promise_and_a_return_to_the_same_batch_are_no_moves() -> None:
    ledger = Ledger()

    first = ledger.serve(part=0, batchref="b1", qty=3, waiting=0, sequence=1)
    ledger.leave(Entry(0, "b1", 3, sequence=2))
    again = ledger.serve(part=0, batchref="b1", qty=3, waiting=0, sequence=3)

    assert (first, again, ledger.entries) == (Served({}, 0), Served({}, 0), [])


def test_of_a_line_that_wants_fewer_pieces_those_that_wait_are_given_up_first() -> None:
    ledger = Ledger([Entry(0, "b1", 3, sequence=2), Entry(1, None, 2, sequence=3, mailed=True)])

    ledger.resize(-3, sequence=4)
    some_left = ledger.entries
    ledger.resize(-9, sequence=5)

    assert some_left == [Entry(0, "b1", 2, sequence=2)]
    assert ledger.entries == []


def test_of_a_line_that_waits_the_pieces_that_it_wants_in_addition_wait_too() -> None:
    ledger = Ledger([Entry(1, "b1", 3, sequence=2, mailed=True)])

    ledger.resize(2, sequence=4)

    assert ledger.entries == [
        Entry(1, "b1", 3, sequence=2, mailed=True),
        Entry(1, None, 2, sequence=4, mailed=True),
    ]


def test_a_line_that_is_served_notes_nothing_when_it_grows() -> None:
    ledger = Ledger()

    ledger.resize(2, sequence=4)

    assert ledger.entries == []


def test_a_change_that_comes_late_leaves_the_newer_entries_alone() -> None:
    newer = Entry(0, "b1", 3, sequence=9)
    ledger = Ledger([newer])

    ledger.resize(-3, sequence=4)

    assert ledger.entries == [newer]
