"""Stock rules: the Product decides which batch serves which line, and records what happened."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime

from allocation.domain.books import Allocation, Batch, Books, MemoryBooks, OrderLine
from allocation.domain.commands import AllocateWaiting, Expire, FollowUp, ReviewPromises
from allocation.domain.events import (
    Allocated,
    BatchCreated,
    BatchEtaChanged,
    BatchQuantityChanged,
    Choice,
    Deallocated,
    Dispatched,
    Event,
    OutOfStock,
    PromiseChanged,
    ReservationReleased,
    Reserved,
    StrategyChosen,
    WrittenOff,
)
from allocation.domain.outcomes import Outcome, Refused, Succeeded
from allocation.domain.preference import EARLIEST_FIRST, STRATEGIES, Strategy, arrival, first_fit
from allocation.domain.preference import choice as choice_among

SERVED_AT_ONCE = 500
"""Lines that one command serves, moves or tells at most: it bounds how long it may take."""


class Product:
    """The batches and order lines of one sku: the consistency boundary.

    `version` counts the decisions that changed it, `sequence` the events that it recorded;
    `strategy` names the order in which its batches serve.
    """

    def __init__(self, sku: str, batches: Iterable[Batch] = ()) -> None:
        self.sku = sku
        self.version = 0
        self.sequence = 0
        self.strategy = EARLIEST_FIRST
        self.open(MemoryBooks(batches))

    def open(self, books: Books) -> None:
        """Keep the books of batches and lines in `books` from now on."""
        self._books = books
        self._events: list[Event] = []
        self._follow_ups: dict[FollowUp, None] = {}

    @property
    def _strategy(self) -> Strategy:
        return STRATEGIES[self.strategy]

    def pull_events(self) -> list[Event]:
        """The events recorded since the last call, in order of their sequence."""
        events, self._events = self._events, []
        return events

    def pull_follow_ups(self) -> list[FollowUp]:
        """What the decisions since the last call left to be done, each once."""
        follow_ups, self._follow_ups = self._follow_ups, {}
        return list(follow_ups)

    def create_batch(
        self, batchref: str, qty: int, eta: date | None = None, best_before: date | None = None
    ) -> Outcome:
        """Put a batch on the books; the caller has seen that no product has this reference."""
        self.version += 1
        self._books.add_batch(Batch(batchref, self.sku, qty, eta, best_before=best_before))
        self._record(BatchCreated(batchref, self.sku, qty, eta, best_before))
        self._serve_waiting_next()
        return Succeeded(status="created", batchref=batchref)

    def choose_strategy(self, strategy: str) -> Outcome:
        """Have the batches serve in this order from now on; what is promised stays."""
        if strategy == self.strategy:
            return Succeeded(status="unchanged", strategy=strategy)
        self.version += 1
        self.strategy = strategy
        self._record(StrategyChosen(self.sku, strategy))
        return Succeeded(status="changed", strategy=strategy)

    def allocate(self, line: OrderLine) -> Outcome:
        """Promise `line` stock from the batch that arrives first, or let it wait its turn."""
        known = self._books.line(line.orderid)
        if known is not None and known.expires_at is not None:
            return Refused("reserved", field="orderid", orderid=line.orderid, sku=self.sku)
        return self._again(known, line) if known else self._take(line, expires_at=None)

    def reserve(self, line: OrderLine, expires_at: datetime) -> Outcome:
        """Hold stock for `line` until then, as `allocate` would promise it."""
        known = self._books.line(line.orderid)
        if known is not None:
            return self._again(known, line)
        self._follow_ups[Expire(line.orderid, expires_at)] = None
        return self._take(line, expires_at)

    def confirm(self, orderid: str) -> bool:
        """Make the order's held line an allocation; False when it holds none here."""
        line = self._held(orderid)
        if line is None:
            return False
        self.version += 1
        line.expires_at = None
        if line.batchref is not None:
            self._record_promise(line, line.batchref)
        return True

    def can_extend(self, orderid: str) -> bool:
        """Whether the order's line may be held for longer: it never was. True without one."""
        line = self._held(orderid)
        return line is None or not line.extended

    def extend(self, orderid: str, expires_at: datetime) -> bool:
        """Hold the order's held line until then; False when there is none here."""
        line = self._held(orderid)
        if line is None:
            return False
        self.version += 1
        line.expires_at = expires_at
        line.extended = True
        self._follow_ups[Expire(orderid, expires_at)] = None
        if line.batchref is not None:
            self._record_promise(line, line.batchref)
        return True

    def release(self, orderid: str) -> bool:
        """Give up the order's held line; False when it holds none here."""
        line = self._held(orderid)
        if line is None:
            return False
        self._give_up(line, "released")
        return True

    def expire(self, orderid: str, expires_at: datetime) -> bool:
        """Give up the order's line if it is held until then, and no longer; whether it was."""
        line = self._held(orderid)
        if line is None or line.expires_at != expires_at:
            return False
        self._give_up(line, "expired")
        return True

    def dispatch(self, orderid: str, batchref: str | None) -> Outcome:
        """Take the goods of an allocated line off its batch's books: they have left."""
        line = self._books.line(orderid)
        if line is None:
            return self._unknown_line(orderid)
        if line.batchref is None or line.expires_at is not None:
            return Refused("not allocated", field="orderid", orderid=orderid, sku=self.sku)
        if batchref not in (None, line.batchref):
            known = line.batchref
            return Refused("another batch", field="batchref", batchref=batchref, known=known)
        if not line.dispatched:
            self.version += 1
            batch = self._known_batch(line.batchref)
            batch.purchased -= line.qty
            batch.allocated -= line.qty
            line.dispatched = True
            self._record(Dispatched(orderid, self.sku, line.qty, batch.batchref))
        return Succeeded(status="dispatched", batchref=line.batchref)

    def cannot_promise(self, line: OrderLine, *, hold: bool) -> Refused | None:
        """Why `line` would not be promised, or held, at once; older lines are served before."""
        known = self._books.line(line.orderid)
        if known is None:
            before = self.sequence
            batches, all_served = self._serve_waiting()
            self.version += self.sequence > before
            if all_served and first_fit(batches, line.qty) is not None:
                return None
        elif known.expires_at is not None and not hold:
            return Refused("reserved", field="orderid", orderid=line.orderid, sku=self.sku)
        else:
            again = self._again(known, line)
            if isinstance(again, Refused):
                return again
            if known.batchref is not None:
                return None
        return Refused("not all in stock", field="lines", orderid=line.orderid, sku=self.sku)

    def _again(self, known: Allocation, line: OrderLine) -> Outcome:
        if known.qty != line.qty:
            return Refused("quantity differs", field="qty", qty=line.qty, known_qty=known.qty)
        return self._answer(known)

    def _take(self, line: OrderLine, expires_at: datetime | None) -> Outcome:
        self.version += 1
        allocation = Allocation(
            line.orderid, self.sku, line.qty, age=self.version, customer=line.customer
        )
        allocation.expires_at = expires_at
        batches, all_served = self._serve_waiting()
        batch = first_fit(batches, line.qty)
        if all_served and batch is not None:
            self._promise(allocation, batch, batches)
        elif all_served:
            self._tell(allocation, batches)
        self._books.add_line(allocation)
        return self._answer(allocation)

    def deallocate(self, orderid: str) -> Outcome:
        """Give up the order's line, wherever it stands."""
        line = self._books.line(orderid)
        if line is None:
            return self._unknown_line(orderid)
        if line.dispatched:
            return Refused("dispatched", field="orderid", orderid=orderid, sku=self.sku)
        self._give_up(line, "released")
        return Succeeded(status="deallocated")

    def change_batch_quantity(self, batchref: str, qty: int) -> Outcome:
        """Set the purchased quantity; the most recently promised lines give way to a shortage."""
        batch = self._known_batch(batchref)
        if batch.purchased == qty:
            return Succeeded(status="unchanged", batchref=batchref, qty=qty)
        self.version += 1
        self._set_quantity(batch, qty)
        return Succeeded(status="changed", batchref=batchref, qty=qty)

    def write_off(self, batchref: str, qty: int, reason: str) -> Outcome:
        """Take pieces off a batch; the most recently promised lines give way to a shortage."""
        batch = self._known_batch(batchref)
        if qty > batch.purchased:
            return Refused("quantity too large", field="qty", qty=qty, known_qty=batch.purchased)
        self.version += 1
        self._record(WrittenOff(batchref, self.sku, qty, reason))
        self._set_quantity(batch, batch.purchased - qty)
        return Succeeded(status="written off", batchref=batchref, left=batch.purchased)

    def change_batch_eta(self, batchref: str, eta: date | None) -> Outcome:
        """Set when a batch arrives; lines that another batch serves earlier than that move."""
        batch = self._known_batch(batchref)
        told = eta.isoformat() if eta else None
        if batch.eta == eta:
            return Succeeded(status="unchanged", batchref=batchref, eta=told)
        self.version += 1
        self._record(BatchEtaChanged(batchref, self.sku, eta))
        batch.eta = eta
        self._review(batch)
        return Succeeded(status="changed", batchref=batchref, eta=told)

    def review_promises(self, batchref: str) -> Outcome:
        """Go on with the lines that were promised another day than their batch arrives."""
        before = self.sequence
        self._review(self._known_batch(batchref))
        if self.sequence > before:
            self.version += 1
        return Succeeded(status="reviewed", events=self.sequence - before)

    def allocate_waiting(self) -> Outcome:
        """Serve the waiting lines that fit, oldest first; tell the others once that they wait."""
        before = self.sequence
        batches, all_served = self._serve_waiting()
        if all_served:
            untold = self._books.untold(SERVED_AT_ONCE)
            for line in untold:
                self._tell(line, batches)
            if len(untold) == SERVED_AT_ONCE:
                self._serve_waiting_next()
        if self.sequence > before:
            self.version += 1
        return Succeeded(status="served", events=self.sequence - before)

    def _serve_waiting(self) -> tuple[list[Batch], bool]:
        """Serve at most SERVED_AT_ONCE lines: the batches by preference, and whether that did all.

        One pass is enough: stock only shrinks meanwhile, so a line that did not fit in its turn
        does not fit later. What is not done is left to a follow-up.
        """
        batches = self._strategy.sort(self._books.open_batches())
        age = 0
        for _ in range(SERVED_AT_ONCE):
            largest = max((batch.free for batch in batches), default=0)
            line = self._books.oldest_waiting(at_most=largest, after=age)
            if line is None:
                return batches, True
            batch = first_fit(batches, line.qty)
            assert batch is not None, f"{line.qty} pieces fit no batch with {largest}"
            self._promise(line, batch, batches)
            if self._strategy.by_free:
                batches = self._strategy.sort(batches)
            age = line.age
        self._serve_waiting_next()
        return batches, False

    def _serve_waiting_next(self) -> None:
        self._follow_ups[AllocateWaiting(self.sku)] = None

    def _set_quantity(self, batch: Batch, qty: int) -> None:
        self._record(BatchQuantityChanged(batch.batchref, self.sku, qty))
        for line in self._books.promised(batch.batchref):
            if batch.allocated <= qty:
                break
            self._release(line)
        if qty > batch.purchased:
            self._serve_waiting_next()
        batch.purchased = qty

    def _review(self, late: Batch) -> None:
        """Tell at most SERVED_AT_ONCE lines of this batch their new day, or move them."""
        # Whoever waits comes before whoever has a promise.
        batches, all_served = self._serve_waiting()
        earlier = [batch for batch in batches if arrival(batch.eta) < arrival(late.eta)]
        lines = self._books.promised_another_day(late, SERVED_AT_ONCE) if all_served else []
        for line in lines:
            old = line.eta
            better = first_fit(earlier, line.qty) if arrival(old) < arrival(late.eta) else None
            if better is not None:
                self._release(line)
                self._promise(line, better, earlier)
                if self._strategy.by_free:
                    earlier = self._strategy.sort(earlier)
            line.eta = (better or late).eta
            if line.eta != old:
                self._record(self._changed_promise(line, old))
        if not all_served or len(lines) == SERVED_AT_ONCE:
            self._follow_ups[ReviewPromises(late.batchref)] = None

    def _changed_promise(self, line: Allocation, old: date | None) -> PromiseChanged:
        assert line.batchref is not None
        return PromiseChanged(line.orderid, self.sku, line.qty, line.batchref, old, line.eta)

    def _tell(self, line: Allocation, batches: Sequence[Batch]) -> None:
        choice = choice_among(None, batches)
        self._record(OutOfStock(line.orderid, self.sku, line.qty, choice=choice))
        line.told = True

    def _promise(self, line: Allocation, batch: Batch, batches: Sequence[Batch]) -> None:
        choice = choice_among(batch, batches)
        batch.allocated += line.qty
        line.eta = batch.eta
        line.told = False
        self._record_promise(line, batch.batchref, choice)

    def _record_promise(
        self, line: Allocation, batchref: str, choice: Choice | None = None
    ) -> None:
        name = (line.orderid, self.sku, line.qty, batchref, line.eta)
        if line.expires_at is None:
            self._record(Allocated(*name, line.customer, choice=choice))
        else:
            self._record(Reserved(*name, line.expires_at, line.customer, choice=choice))
        line.batchref, line.promised_at = batchref, self.sequence

    def _held(self, orderid: str) -> Allocation | None:
        line = self._books.line(orderid)
        return None if line is None or line.expires_at is None else line

    def _give_up(self, line: Allocation, reason: str) -> None:
        self.version += 1
        self._release(line, reason)
        self._books.remove_line(line)

    def _release(self, line: Allocation, reason: str = "moved") -> None:
        """Free what the line holds; it waits again, with the age it had."""
        name = (line.orderid, self.sku, line.qty, line.batchref)
        if line.expires_at is None:
            self._record(Deallocated(*name))
        else:
            self._record(ReservationReleased(*name, reason))
        if line.batchref is None:
            return
        self._known_batch(line.batchref).allocated -= line.qty
        line.batchref = line.promised_at = line.eta = None
        self._serve_waiting_next()

    def _answer(self, line: Allocation) -> Outcome:
        held = {"expires_at": line.expires_at.isoformat()} if line.expires_at else {}
        if line.batchref is None:
            return Succeeded(status="waiting", batchref=None, eta=None, **held)
        eta = self._known_batch(line.batchref).eta
        return Succeeded(
            status=_status(line),
            batchref=line.batchref,
            eta=eta.isoformat() if eta else None,
            **held,
        )

    def _unknown_line(self, orderid: str) -> Refused:
        return Refused("unknown order line", field="orderid", orderid=orderid, sku=self.sku)

    def _known_batch(self, batchref: str) -> Batch:
        batch = self._books.batch(batchref)
        assert batch is not None, f"no batch {batchref!r} in the books of {self.sku!r}"
        return batch

    def _record(self, event: Event) -> None:
        self.sequence += 1
        self._events.append(replace(event, sequence=self.sequence))


def _status(line: Allocation) -> str:
    if line.dispatched:
        return "dispatched"
    return "allocated" if line.expires_at is None else "reserved"
