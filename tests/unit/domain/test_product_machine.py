"""Random commands against a Product: the invariants hold after each."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from allocation.adapters.memory import MemoryBooks
from allocation.domain import product
from allocation.domain.books import Line, OrderLine, line_version
from allocation.domain.commands import (
    AllocateWaiting,
    Expire,
    ExpireBatch,
    FollowUp,
    MarkOverdue,
    ReviewPromises,
)
from allocation.domain.events import (
    Allocated,
    Deallocated,
    Dispatched,
    Event,
    OutOfStock,
    PromiseChanged,
    ReservationReleased,
    Reserved,
)
from allocation.domain.outcomes import Outcome, Refused
from allocation.domain.product import Product
from allocation.domain.strategies import (
    IN_ORDER,
    STRATEGIES,
    WAITING_RULES,
    candidates,
    earlier_batches,
    first_fit,
    service_order,
)

ORDERS = st.sampled_from([f"order-{number}" for number in range(5)])
BATCHES = st.sampled_from([f"batch-{number}" for number in range(3)])
QUANTITIES = st.integers(min_value=1, max_value=6)
MOMENTS = st.sampled_from([datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2)])
BEGIN = date(2030, 1, 1)
DAYS = st.sampled_from([None, *(BEGIN + timedelta(days=days) for days in (-1, 0, 2, 5, 9))])


SERVING = ("allocate", "reserve", "allocate_waiting", "review_promises")


class Kept:
    """A product beside the books that it keeps, so that a test may look into them."""

    def __init__(self) -> None:
        self.books = MemoryBooks()
        self.product = Product("LAMP", self.books, today=BEGIN)
        self.outcome: Outcome | None = None

    def do(self, name: str, *arguments: Any) -> list[Event]:
        if name == "begin_day":
            (today,) = arguments
            known = self.product
            self.product = Product(
                *("LAMP", self.books, known.version, known.sequence),
                *(known.strategy, known.waiting, known.improve, today),
            )
        else:
            self.outcome = getattr(self.product, name)(*arguments)
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
        self.told: dict[tuple[str, int], tuple[str, int] | None] = {}
        """By part of a line: the batch and the pieces that its last event promises."""
        self.firm: set[tuple[str, int]] = set()
        """Parts whose last promise is an allocation."""
        self.days: dict[tuple[str, int], date | None] = {}
        self.gone_by_batch: Counter[tuple[str, str]] = Counter()
        self.today = BEGIN
        self.ages: dict[str, int] = {}

    def asked_for(self, orderid: str, qty: int) -> None:
        if not self.kept.books.parts(orderid):
            self.asked[orderid] = qty

    def do(self, *call: Any) -> list[Event]:
        """The events of a decision, which has to leave nothing that a rule forbids."""
        waited = {line.orderid for line in self.waiting()}
        self.played.append(call)
        events = self.kept.do(*call)
        self.events += events
        for event in events:
            self.take(event)
        self.due |= set(self.kept.product.pull_follow_ups())
        if self.kept.product.waiting == IN_ORDER and call[0] in SERVING:
            self.nobody_is_overtaken(waited, events)
        return events

    def take(self, event: Event) -> None:
        """Follow what a subscriber is told."""
        match event:
            case Allocated(orderid=orderid, part=part, batchref=batchref, qty=qty, eta=eta):
                self.told[orderid, part], self.days[orderid, part] = (batchref, qty), eta
                self.firm.add((orderid, part))
            case Reserved(orderid=orderid, part=part, batchref=batchref, qty=qty, eta=eta):
                self.told[orderid, part], self.days[orderid, part] = (batchref, qty), eta
                self.firm.discard((orderid, part))
            case PromiseChanged(orderid=orderid, part=part, new_eta=eta):
                self.days[orderid, part] = eta
            case Dispatched(orderid=orderid, batchref=batchref, qty=qty):
                self.gone_by_batch[orderid, batchref] += qty
            case (
                Deallocated(orderid=orderid, part=part)
                | OutOfStock(orderid=orderid, part=part)
                | ReservationReleased(orderid=orderid, part=part)
            ):
                self.told[orderid, part] = None

    def waiting(self) -> list[Line]:
        lines = (line for line in self.kept.books.lines.values() if line.batchref is None)
        return sorted(lines, key=service_order)

    def nobody_is_overtaken(self, waited: set[str], events: list[Event]) -> None:
        served = {event.orderid for event in events if isinstance(event, Allocated | Reserved)}
        for first in self.waiting()[:1]:
            for orderid in served - {first.orderid} if first.orderid in waited else ():
                for part in self.kept.books.parts(orderid):
                    assert service_order(part) < service_order(first)

    def total(self, orderid: str) -> int:
        return sum(part.qty for part in self.kept.books.parts(orderid))

    @rule(days=st.integers(min_value=1, max_value=4))
    def days_pass(self, days: int) -> None:
        self.today += timedelta(days=days)
        self.do("begin_day", self.today)

    @rule(batchref=BATCHES, qty=QUANTITIES, eta=DAYS, best_before=DAYS)
    def create_batch(
        self, batchref: str, qty: int, eta: date | None, best_before: date | None
    ) -> None:
        if self.kept.books.batch(batchref) is None:
            self.do("create_batch", batchref, qty, eta, best_before)

    @rule(
        orderid=ORDERS,
        qty=QUANTITIES,
        split=st.booleans(),
        priority=st.integers(min_value=0, max_value=2),
        not_before=st.none() | DAYS,
        fresh_days=st.sampled_from([0, 0, 3]),
    )
    def allocate(self, orderid: str, qty: int, split: bool, **wishes: Any) -> None:
        self.asked_for(orderid, qty)
        self.do("allocate", OrderLine(orderid, "LAMP", qty, split=split, **wishes))

    @rule(orderid=ORDERS)
    def deallocate(self, orderid: str) -> None:
        self.do("deallocate", orderid)
        if left := self.kept.books.parts(orderid):  # what was dispatched
            self.asked[orderid] = sum(part.qty for part in left)

    @precondition(lambda self: self.kept.books.batches)
    @rule(batchref=BATCHES, qty=st.integers(min_value=0, max_value=6))
    def change_batch_quantity(self, batchref: str, qty: int) -> None:
        if self.kept.books.batch(batchref) is not None:
            self.do("change_batch_quantity", batchref, qty)

    @rule(
        strategy=st.sampled_from(sorted(STRATEGIES)),
        waiting=st.sampled_from(WAITING_RULES),
        improve=st.booleans(),
    )
    def choose_strategy(self, strategy: str, waiting: str, improve: bool) -> None:
        self.do("choose_strategy", strategy, waiting, improve)

    @precondition(lambda self: self.kept.books.batches)
    @rule(batchref=BATCHES, qty=QUANTITIES)
    def receive(self, batchref: str, qty: int) -> None:
        if self.kept.books.batch(batchref) is not None:
            self.do("receive", batchref, qty)

    @precondition(lambda self: self.kept.books.batches)
    @rule(batchref=BATCHES, best_before=DAYS)
    def change_best_before(self, batchref: str, best_before: date | None) -> None:
        if self.kept.books.batch(batchref) is not None:
            self.do("change_best_before", batchref, best_before)

    @precondition(lambda self: self.kept.books.batches)
    @rule(batchref=BATCHES, blocked=st.booleans())
    def block_or_unblock(self, batchref: str, blocked: bool) -> None:
        if self.kept.books.batch(batchref) is None:
            return
        if blocked:
            self.do("block_batch", batchref, "recall")
        else:
            self.do("unblock_batch", batchref)

    @rule(orderid=ORDERS, qty=QUANTITIES)
    def change_line_quantity(self, orderid: str, qty: int) -> None:
        before = self.kept.books.parts(orderid)
        asked, holding = self.total(orderid), any(part.held for part in before)
        self.do("change_line_quantity", orderid, qty)
        refused = isinstance(self.kept.outcome, Refused)
        if not before:
            assert refused
            return
        gone = sum(part.gone for part in self.kept.books.parts(orderid))
        assert not refused or qty < gone or (qty > asked and (holding or gone == asked))
        if not refused:
            self.asked[orderid] = qty
            if self.kept.product.waiting == IN_ORDER and qty > asked and holding:
                for first in self.waiting()[:1]:  # perhaps another part of this line
                    assert service_order(before[0]) <= service_order(first)

    @rule(orderid=ORDERS, priority=st.integers(min_value=0, max_value=2))
    def change_priority(self, orderid: str, priority: int) -> None:
        self.do("change_priority", orderid, priority)

    @precondition(lambda self: any(line.gone for line in self.kept.books.lines.values()))
    @rule(orderid=ORDERS, qty=QUANTITIES, batchref=BATCHES, usable=st.booleans())
    def return_goods(self, orderid: str, qty: int, batchref: str, usable: bool) -> None:
        self.do("return_goods", orderid, qty, batchref, usable)

    @rule(orderid=ORDERS, batchref=st.none() | BATCHES, qty=QUANTITIES)
    def dispatch_some(self, orderid: str, batchref: str | None, qty: int) -> None:
        self.dispatched("dispatch", orderid, batchref, qty)

    @rule(orderid=ORDERS, qty=QUANTITIES)
    def a_stale_version_is_refused(self, orderid: str, qty: int) -> None:
        parts = self.kept.books.parts(orderid)
        before = line_version(parts)
        assert self.do("change_line_quantity", orderid, qty, f"not {before}") == []
        assert isinstance(self.kept.outcome, Refused)

    @precondition(lambda self: self.kept.books.batches)
    @rule(batchref=BATCHES, qty=QUANTITIES)
    def write_off(self, batchref: str, qty: int) -> None:
        if self.kept.books.batch(batchref) is not None:
            self.do("write_off", batchref, qty, "water damage")

    @precondition(lambda self: self.kept.books.batches)
    @rule(batchref=BATCHES, eta=DAYS)
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
        self.dispatched("dispatch", orderid, None)

    def dispatched(self, *call: Any) -> None:
        for event in self.do(*call):
            assert isinstance(event, Dispatched)
            batch = self.kept.books.batches[event.batchref]
            assert batch.blocked is None
            assert batch.eta is None
            assert batch.best_before is None or batch.best_before >= self.today

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
            case ExpireBatch(batchref, day):
                self.do("expire_batch", batchref, day)
            case MarkOverdue(batchref, day):
                self.do("mark_overdue", batchref, day)

    @invariant()
    def batches_promise_what_their_lines_hold_and_no_more_than_they_have(self) -> None:
        held: Counter[str | None] = Counter()
        for line in self.kept.books.lines.values():
            if line.batchref is not None:
                held[line.batchref] += line.held
                assert 0 <= line.returned <= line.gone <= line.qty
            else:
                assert line.gone == line.returned == 0
        for batch in self.kept.books.batches.values():
            assert batch.allocated == held[batch.batchref]
            assert 0 <= batch.allocated <= batch.purchased

    @invariant()
    def every_line_is_either_allocated_or_waiting_as_its_events_say(self) -> None:
        for key, line in self.kept.books.lines.items():
            assert (line.batchref is None) == (line.promised_at is None)
            if line.batchref is None:
                assert self.told.get(key) is None
            elif not line.dispatched:
                assert self.told[key] == (line.batchref, line.qty)
                assert (line.expires_at is None) == (key in self.firm)

    @invariant()
    def what_has_left_is_what_the_events_say(self) -> None:
        gone: Counter[tuple[str, str]] = Counter()
        for line in self.kept.books.lines.values():
            if line.gone and line.batchref is not None:
                gone[line.orderid, line.batchref] += line.gone
        assert gone == self.gone_by_batch

    @invariant()
    def a_line_keeps_its_age(self) -> None:
        for orderid in self.ages.keys() - {orderid for orderid, _ in self.kept.books.lines}:
            del self.ages[orderid]
        for line in self.kept.books.lines.values():
            assert line.age == self.ages.setdefault(line.orderid, line.age)

    @invariant()
    def a_batch_that_has_not_expired_or_is_not_overdue_will_be_looked_at(self) -> None:
        for batch in self.kept.books.batches.values():
            if batch.best_before is not None and not batch.expired:
                assert ExpireBatch(batch.batchref, batch.best_before) in self.due
            if batch.eta is not None and not batch.overdue:
                assert MarkOverdue(batch.batchref, batch.eta) in self.due
            for line in self.kept.books.lines.values():
                if line.held and line.batchref == batch.batchref:
                    assert batch.blocked is None
                    assert not batch.expired

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
        for line in self.kept.books.lines.values():
            if line.batchref is None or line.dispatched:
                continue
            assert self.days[line.orderid, line.part] == line.eta
            if ReviewPromises(line.batchref) not in self.due:
                assert line.eta == self.kept.books.batches[line.batchref].eta

    @invariant()
    def nothing_waits_beside_its_stock_once_follow_ups_have_ended(self) -> None:
        if AllocateWaiting("LAMP") in self.due:
            return
        waiting = self.waiting()
        assert [line for line in waiting if not line.told] == []
        if self.kept.product.waiting == IN_ORDER:
            waiting = waiting[:1]
        assert [line for line in waiting if self.fits(line)] == []

    @invariant()
    def no_promise_could_be_earlier_once_follow_ups_have_ended(self) -> None:
        its, lines = self.kept.product, self.kept.books.lines.values()
        waits = any(line.batchref is None for line in lines)
        reviews = {each for each in self.due if isinstance(each, ReviewPromises)}
        if (
            AllocateWaiting("LAMP") in self.due
            or reviews
            or not its.improve
            or (its.waiting == IN_ORDER and waits)
        ):
            return
        batches = self.kept.books.batches.values()
        for line in lines:
            if line.held:
                assert first_fit(earlier_batches(batches, line, self.today), line.held) is None

    def fits(self, line: Line) -> bool:
        batches = self.kept.books.batches.values()
        return first_fit(candidates(batches, line, self.today), line.needs) is not None

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
    max_examples=100, stateful_step_count=100, deadline=None, print_blob=True
)


TestProductMachine = pytest.mark.long(pytest.mark.timeout(600)(ProductMachine.TestCase))
