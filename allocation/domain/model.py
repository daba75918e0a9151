"""Stock rules: the Product decides which batch serves which line, and records what happened."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime
from itertools import count

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
from allocation.domain.outcomes import Outcome, Plain, Refused, Succeeded
from allocation.domain.preference import (
    EARLIEST_FIRST,
    STRATEGIES,
    Strategy,
    arrival,
    enough,
    first_fit,
)
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
        if self._held(line.orderid):
            return Refused("reserved", field="orderid", orderid=line.orderid, sku=self.sku)
        known = self._books.parts(line.orderid)
        return self._again(known, line) if known else self._take(line, expires_at=None)

    def reserve(self, line: OrderLine, expires_at: datetime) -> Outcome:
        """Hold stock for `line` until then, as `allocate` would promise it."""
        known = self._books.parts(line.orderid)
        if known:
            return self._again(known, line)
        self._follow_ups[Expire(line.orderid, expires_at)] = None
        return self._take(line, expires_at)

    def confirm(self, orderid: str) -> bool:
        """Make the order's held line an allocation; False when it holds none here."""
        held = self._held(orderid)
        self.version += bool(held)
        for line in held:
            line.expires_at = None
            if line.batchref is not None:
                self._record_promise(line, line.batchref)
        return bool(held)

    def can_extend(self, orderid: str) -> bool:
        """Whether the order's line may be held for longer: it never was. True without one."""
        return not any(line.extended for line in self._held(orderid))

    def extend(self, orderid: str, expires_at: datetime) -> bool:
        """Hold the order's held line until then; False when there is none here."""
        held = self._held(orderid)
        self.version += bool(held)
        for line in held:
            line.expires_at = expires_at
            line.extended = True
            self._follow_ups[Expire(orderid, expires_at)] = None
            if line.batchref is not None:
                self._record_promise(line, line.batchref)
        return bool(held)

    def release(self, orderid: str) -> bool:
        """Give up the order's held line; False when it holds none here."""
        return self._give_up(self._held(orderid), "released")

    def expire(self, orderid: str, expires_at: datetime) -> bool:
        """Give up the order's line if it is held until then, and no longer; whether it was."""
        held = [line for line in self._held(orderid) if line.expires_at == expires_at]
        return self._give_up(held, "expired")

    def dispatch(self, orderid: str, batchref: str | None) -> Outcome:
        """Take the goods of an allocated line off its batches' books, or off this one's only."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._unknown_line(orderid)
        firm = [line for line in parts if line.batchref and line.expires_at is None]
        if not firm:
            return Refused("not allocated", field="orderid", orderid=orderid, sku=self.sku)
        leaving = [line for line in firm if batchref in (None, line.batchref)]
        if not leaving:
            known = firm[0].batchref
            return Refused("another batch", field="batchref", batchref=batchref, known=known)
        here = [line for line in leaving if not line.dispatched]
        self.version += bool(here)
        for line in here:
            assert line.batchref is not None
            batch = self._known_batch(line.batchref)
            batch.purchased -= line.qty
            batch.allocated -= line.qty
            line.dispatched = True
            self._record(Dispatched(orderid, self.sku, line.qty, batch.batchref, part=line.part))
        return Succeeded(status="dispatched", batchref=batchref or leaving[0].batchref)

    def cannot_promise(self, line: OrderLine, *, hold: bool) -> Refused | None:
        """Why `line` would not be promised, or held, at once; older lines are served before."""
        known = self._books.parts(line.orderid)
        if not known:
            before = self.sequence
            batches, all_served = self._serve_waiting()
            self.version += self.sequence > before
            if all_served and enough(batches, line.qty, split=line.split):
                return None
        elif self._held(line.orderid) and not hold:
            return Refused("reserved", field="orderid", orderid=line.orderid, sku=self.sku)
        else:
            again = self._again(known, line)
            if isinstance(again, Refused):
                return again
            if all(part.batchref is not None for part in known):
                return None
        return Refused("not all in stock", field="lines", orderid=line.orderid, sku=self.sku)

    def _again(self, known: Sequence[Allocation], line: OrderLine) -> Outcome:
        qty = sum(part.qty for part in known)
        if qty != line.qty:
            return Refused("quantity differs", field="qty", qty=line.qty, known_qty=qty)
        return self._answer(known)

    def _take(self, line: OrderLine, expires_at: datetime | None) -> Outcome:
        self.version += 1
        allocation = Allocation(
            line.orderid, self.sku, line.qty, self.version, line.customer, line.split
        )
        allocation.expires_at = expires_at
        batches, all_served = self._serve_waiting()
        if all_served and not self._serve(allocation, batches):
            self._tell(allocation, batches)
        self._books.add_line(allocation)
        return self._answer(self._books.parts(line.orderid))

    def deallocate(self, orderid: str) -> Outcome:
        """Give up the order's line, wherever it stands, but for goods that have left."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._unknown_line(orderid)
        if not self._give_up([line for line in parts if not line.dispatched], "released"):
            return Refused("dispatched", field="orderid", orderid=orderid, sku=self.sku)
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
            served = self._serve(line, batches)
            assert served or line.split, f"{line.qty} pieces fit no batch with {largest}"
            if self._strategy.by_free:
                batches = self._strategy.sort(batches)
            age = line.age
        self._serve_waiting_next()
        return batches, False

    def _serve(self, line: Allocation, batches: Sequence[Batch]) -> bool:
        """Promise the line stock, in parts if it may; whether nothing of it is left to wait."""
        batch = first_fit(batches, line.qty)
        if batch is None and line.split:
            parts = self._books.parts(line.orderid)
            numbers = count(1 + max((part.part for part in parts), default=line.part))
            for each in batches:
                if each.free >= line.qty:
                    batch = each  # the rest of it
                    break
                if each.free > 0:
                    self._promise(self._part(line, each.free, next(numbers)), each, batches)
        if batch is not None:
            self._promise(line, batch, batches)
        return batch is not None

    def _part(self, line: Allocation, qty: int, number: int) -> Allocation:
        """So many pieces of the line, as a part of their own."""
        part = Allocation(
            *(line.orderid, self.sku, qty, line.age, line.customer), split=True, part=number
        )
        part.expires_at, part.extended = line.expires_at, line.extended
        line.qty -= qty
        self._books.add_line(part)
        return part

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
                self._free(line, "moved")
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
        return PromiseChanged(
            *(line.orderid, self.sku, line.qty, line.batchref, old, line.eta), part=line.part
        )

    def _tell(self, line: Allocation, batches: Sequence[Batch]) -> None:
        choice = choice_among(None, batches)
        self._record(OutOfStock(line.orderid, self.sku, line.qty, part=line.part, choice=choice))
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
            self._record(Allocated(*name, line.customer, part=line.part, choice=choice))
        else:
            until = line.expires_at
            self._record(Reserved(*name, until, line.customer, part=line.part, choice=choice))
        line.batchref, line.promised_at = batchref, self.sequence

    def _held(self, orderid: str) -> list[Allocation]:
        return [line for line in self._books.parts(orderid) if line.expires_at is not None]

    def _give_up(self, lines: Sequence[Allocation], reason: str) -> bool:
        self.version += bool(lines)
        for line in lines:
            self._free(line, reason)
            self._books.remove_line(line)
        return bool(lines)

    def _release(self, line: Allocation) -> None:
        """Free what the line holds; it waits again, with its age and as one with the rest."""
        self._free(line, "moved")
        if not line.split:
            return
        waiting = [part for part in self._books.parts(line.orderid) if part.batchref is None]
        for part in waiting[1:]:
            waiting[0].qty += part.qty
            waiting[0].told = waiting[0].told and part.told
            self._books.remove_line(part)

    def _free(self, line: Allocation, reason: str) -> None:
        name = (line.orderid, self.sku, line.qty, line.batchref)
        if line.expires_at is None:
            self._record(Deallocated(*name, part=line.part))
        else:
            self._record(ReservationReleased(*name, reason, part=line.part))
        if line.batchref is None:
            return
        self._known_batch(line.batchref).allocated -= line.qty
        line.batchref = line.promised_at = line.eta = None
        self._serve_waiting_next()

    def _answer(self, parts: Sequence[Allocation]) -> Outcome:
        """How the line stands; where several batches serve it, its parts tell which."""
        told = [self._standing(part) for part in parts]
        if len(told) == 1:
            return Succeeded(**told[0])
        statuses = {str(part["status"]) for part in told}
        return Succeeded(
            status=statuses.pop() if len(statuses) == 1 else "in parts",
            parts=[{"qty": part.qty, **facts} for part, facts in zip(parts, told, strict=True)],
        )

    def _standing(self, line: Allocation) -> dict[str, Plain]:
        eta = self._known_batch(line.batchref).eta if line.batchref is not None else None
        held = {"expires_at": line.expires_at.isoformat()} if line.expires_at else {}
        return {
            "status": _status(line),
            "batchref": line.batchref,
            "eta": eta.isoformat() if eta else None,
            **held,
        }

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
    if line.batchref is None:
        return "waiting"
    if line.dispatched:
        return "dispatched"
    return "allocated" if line.expires_at is None else "reserved"
