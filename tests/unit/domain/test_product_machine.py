"""Random commands against a Product: the invariants hold after each."""

from collections import Counter
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from allocation.adapters.memory import MemoryBooks
from allocation.domain import product
from allocation.domain.books import OrderLine
from allocation.domain.commands import AllocateWaiting, Expire, FollowUp, ReviewPromises
from allocation.domain.events import (
    Allocated,
    Deallocated,
    Event,
    OutOfStock,
    PromiseChanged,
    ReservationReleased,
    Reserved,
)
from allocation.domain.product import Product
from allocation.domain.strategies import STRATEGIES

ORDERS = st.sampled_from([f"order-{number}" for number in range(12)])
BATCHES = st.sampled_from([f"batch-{number}" for number in range(6)])
QUANTITIES = st.integers(min_value=1, max_value=12)
MOMENTS = st.sampled_from([datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2)])
ETAS = st.sampled_from([None, date(2030, 1, 1), date(2030, 2, 1)])


class Kept:
    """A product beside the books that it keeps, so that a test may look into them."""

    def __init__(self) -> None:
        self.books = MemoryBooks()
        self.product = Product("LAMP", self.books)

    def do(self, name: str, *arguments: Any) -> list[Event]:
        getattr(self.product, name)(*arguments)
        return self.product.pull_events()


class ProductMachine(RuleBasedStateMachine):
    """Plays commands and their follow-ups, in any order, late or at once."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()
        self.played: list[tuple[Any, ...]] = []
        self.asked: dict[str, int] = {}
        self.events: list[Event] = []
        self.due: set[FollowUp] = set()
        self.there: set[tuple[str, int]] = set()
        self.gone: set[tuple[str, int]] = set()
        """Parts that are no longer on the books, of lines that are."""

    def asked_for(self, orderid: str, qty: int) -> None:
        if not self.kept.books.parts(orderid):
            self.asked[orderid] = qty

    def do(self, *call: Any) -> None:
        self.played.append(call)
        self.events += self.kept.do(*call)
        self.due |= set(self.kept.product.pull_follow_ups())

    @rule(batchref=BATCHES, qty=QUANTITIES, eta=ETAS, best_before=ETAS)
    def create_batch(
        self, batchref: str, qty: int, eta: date | None, best_before: date | None
    ) -> None:
        if self.kept.books.batch(batchref) is None:
            self.do("create_batch", batchref, qty, eta, best_before)

    @rule(orderid=ORDERS, qty=QUANTITIES, split=st.booleans())
    def allocate(self, orderid: str, qty: int, split: bool) -> None:
        self.asked_for(orderid, qty)
        self.do("allocate", OrderLine(orderid, "LAMP", qty, split=split))

    @rule(orderid=ORDERS)
    def deallocate(self, orderid: str) -> None:
        self.do("deallocate", orderid)
        if left := self.kept.books.parts(orderid):  # what was dispatched
            self.asked[orderid] = sum(part.qty for part in left)

    @rule(batchref=BATCHES, qty=st.integers(min_value=0, max_value=12))
    def change_batch_quantity(self, batchref: str, qty: int) -> None:
        if self.kept.books.batch(batchref) is not None:
            self.do("change_batch_quantity", batchref, qty)

    @rule(strategy=st.sampled_from(sorted(STRATEGIES)))
    def choose_strategy(self, strategy: str) -> None:
        self.do("choose_strategy", strategy)

    @rule(batchref=BATCHES, qty=QUANTITIES)
    def write_off(self, batchref: str, qty: int) -> None:
        if self.kept.books.batch(batchref) is not None:
            self.do("write_off", batchref, qty, "water damage")

    @rule(batchref=BATCHES, eta=ETAS)
    def change_batch_eta(self, batchref: str, eta: date | None) -> None:
        if self.kept.books.batch(batchref) is not None:
            self.do("change_batch_eta", batchref, eta)

    @rule(orderid=ORDERS, qty=QUANTITIES, until=MOMENTS, split=st.booleans())
    def reserve(self, orderid: str, qty: int, until: datetime, split: bool) -> None:
        self.asked_for(orderid, qty)
        self.do("reserve", OrderLine(orderid, "LAMP", qty, split=split), until)

    @rule(orderid=ORDERS, what=st.sampled_from(["confirm", "release"]))
    def end_a_reservation(self, orderid: str, what: str) -> None:
        self.do(what, orderid)

    @rule(orderid=ORDERS, until=MOMENTS)
    def extend(self, orderid: str, until: datetime) -> None:
        if self.kept.product.can_extend(orderid):
            self.do("extend", orderid, until)

    @rule(orderid=ORDERS)
    def dispatch(self, orderid: str) -> None:
        self.do("dispatch", orderid, None)

    @precondition(lambda self: self.due)
    @rule(data=st.data())
    def follow_up(self, data: st.DataObject) -> None:
        command = data.draw(st.sampled_from(sorted(self.due, key=repr)))
        self.due.remove(command)
        match command:
            case AllocateWaiting():
                self.do("allocate_waiting")
            case ReviewPromises(batchref):
                self.do("review_promises", batchref)
            case Expire(orderid, until):
                self.do("expire", orderid, until)

    @invariant()
    def batches_promise_what_their_lines_hold_and_no_more_than_they_have(self) -> None:
        held: Counter[str | None] = Counter()
        for line in self.kept.books.lines.values():
            if not line.dispatched:
                held[line.batchref] += line.qty
        for batch in self.kept.books.batches.values():
            assert batch.allocated == held[batch.batchref]
            assert 0 <= batch.allocated <= batch.purchased

    @invariant()
    def every_line_is_either_allocated_or_waiting_as_its_events_say(self) -> None:
        told: dict[tuple[str, int], tuple[str, int] | None] = {}
        firm: set[tuple[str, int]] = set()
        for event in self.events:
            match event:
                case Allocated(orderid=orderid, part=part, batchref=batchref, qty=qty):
                    told[orderid, part] = (batchref, qty)
                    firm.add((orderid, part))
                case Reserved(orderid=orderid, part=part, batchref=batchref, qty=qty):
                    told[orderid, part] = (batchref, qty)
                    firm.discard((orderid, part))
                case (
                    Deallocated(orderid=orderid, part=part)
                    | OutOfStock(orderid=orderid, part=part)
                    | ReservationReleased(orderid=orderid, part=part)
                ):
                    told[orderid, part] = None
        for key, line in self.kept.books.lines.items():
            assert (line.batchref is None) == (line.promised_at is None)
            if line.batchref is None:
                assert told.get(key) is None
            else:
                assert told[key] == (line.batchref, line.qty)
                assert (line.expires_at is None) == (key in firm)

    @invariant()
    def every_line_has_the_quantity_that_was_asked_for(self) -> None:
        held: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for line in self.kept.books.lines.values():
            held[line.orderid] += line.qty
            waiting[line.orderid] += line.batchref is None
        for orderid, qty in held.items():
            assert waiting[orderid] <= 1
            assert qty == self.asked.get(orderid)

    @invariant()
    def a_batch_serves_one_part_of_a_line(self) -> None:
        held = Counter(
            (line.orderid, line.batchref)
            for line in self.kept.books.lines.values()
            if line.batchref is not None and not line.dispatched
        )
        assert [key for key, parts in held.items() if parts > 1] == []

    @invariant()
    def no_number_of_a_part_is_used_twice(self) -> None:
        there = set(self.kept.books.lines)
        self.gone = {key for key in self.gone if self.kept.books.parts(key[0])}
        assert there & self.gone == set()
        self.gone |= {key for key in self.there - there if self.kept.books.parts(key[0])}
        self.there = there

    @invariant()
    def every_reservation_will_end(self) -> None:
        for line in self.kept.books.lines.values():
            if line.expires_at is not None:
                assert Expire(line.orderid, line.expires_at) in self.due

    @invariant()
    def every_line_knows_the_day_of_its_batch_as_it_was_told(self) -> None:
        told: dict[tuple[str, int], date | None] = {}
        for event in self.events:
            match event:
                case (
                    Allocated(orderid=orderid, part=part, eta=eta)
                    | Reserved(orderid=orderid, part=part, eta=eta)
                    | PromiseChanged(orderid=orderid, part=part, new_eta=eta)
                ):
                    told[orderid, part] = eta
        for line in self.kept.books.lines.values():
            if line.batchref is None or line.dispatched:
                continue
            assert told[line.orderid, line.part] == line.eta
            if ReviewPromises(line.batchref) not in self.due:
                assert line.eta == self.kept.books.batches[line.batchref].eta

    @invariant()
    def nothing_waits_beside_stock_that_it_fits_once_follow_ups_have_ended(self) -> None:
        if AllocateWaiting("LAMP") in self.due:
            return
        largest = max((batch.free for batch in self.kept.books.batches.values()), default=0)
        waiting = [line for line in self.kept.books.lines.values() if line.batchref is None]
        assert [line for line in waiting if line.needs <= largest or not line.told] == []

    @invariant()
    def events_are_numbered_without_a_gap(self) -> None:
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))

    def teardown(self) -> None:
        """The same commands always give the same events."""
        again = Kept()
        events = [event for call in self.played for event in again.do(*call)]

        assert events == self.events


@pytest.fixture(autouse=True)
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound of three lines a command, so that what is left to follow-ups is played as well."""
    monkeypatch.setattr(product, "LINES_PER_COMMAND", 3)


ProductMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True
)


TestProductMachine = ProductMachine.TestCase
