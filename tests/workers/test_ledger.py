from workers.notification.ledger import Entry, Ledger, Served


def test_a_first_promise_and_a_return_to_the_same_batch_are_no_moves() -> None:
    ledger = Ledger()

    first = ledger.serve(part=0, batchref="b1", qty=3, waiting=0, sequence=1)
    ledger.leave(Entry(0, "b1", 3, sequence=2))
    again = ledger.serve(part=0, batchref="b1", qty=3, waiting=0, sequence=3)

    assert (first, again, ledger.entries) == (Served({}, 0), Served({}, 0), [])
