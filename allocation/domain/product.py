"""The aggregate: a Product decides what each command does to its batches and lines."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from allocation.domain.books import Batch, Books, Line, OrderLine, arrival, status_of_parts
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
from allocation.domain.outcomes import Fact, Outcome, Plain, Refused, Succeeded
from allocation.domain.strategies import (
    EARLIEST_FIRST,
    STRATEGIES,
    Strategy,
    choice_among,
    enough,
    first_fit,
    pieces_of,
)

LINES_PER_COMMAND = 500
"""Lines that one command serves, moves or announces at most: it bounds how long it may take."""


class Product:
    """The batches and order lines of one sku: the consistency boundary.

    `version` counts the decisions that changed it, `sequence` the events that it recorded;
    `strategy` names the order in which its batches serve.
    """

    def __init__(
        self,
        sku: str,
        books: Books,
        version: int = 0,
        sequence: int = 0,
        strategy: str = EARLIEST_FIRST,
    ) -> None:
        self.sku = sku
        self.version = version
        self.sequence = sequence
        self.strategy = strategy
        self._books = books
        self._events: list[Event] = []
        self._follow_ups: dict[FollowUp, None] = {}

    # Batches

    def create_batch(
        self, batchref: str, qty: int, eta: date | None = None, best_before: date | None = None
    ) -> Outcome:
        """Put a batch on the books; the caller has seen that no product has this reference."""
        self.version += 1
        self._books.add_batch(Batch(batchref, self.sku, qty, eta, best_before=best_before))
        self._record(BatchCreated(batchref, self.sku, qty, eta, best_before))
        self._leave_allocate_waiting()
        return Succeeded(status="created", batchref=batchref)

    def change_batch_quantity(self, batchref: str, qty: int) -> Outcome:
        """Set the purchased quantity; on a shortage lines give way by `shortage_order`."""
        batch = self._known_batch(batchref)
        if batch.purchased == qty:
            return Succeeded(status="unchanged", batchref=batchref, qty=qty)
        self.version += 1
        self._set_quantity(batch, qty)
        return Succeeded(status="changed", batchref=batchref, qty=qty)

    def write_off(self, batchref: str, qty: int, reason: str) -> Outcome:
        """Write off pieces of a batch; on a shortage lines give way by `shortage_order`."""
        batch = self._known_batch(batchref)
        if qty > batch.purchased:
            return Refused("quantity too large", field="qty", qty=qty, known_qty=batch.purchased)
        self.version += 1
        self._record(WrittenOff(batchref, self.sku, qty, reason))
        self._set_quantity(batch, batch.purchased - qty)
        return Succeeded(status="written off", batchref=batchref, left=batch.purchased)

    def change_batch_eta(self, batchref: str, eta: date | None) -> Outcome:
        """Change a batch's ETA; lines that another batch serves earlier than that move."""
        batch = self._known_batch(batchref)
        day = eta.isoformat() if eta else None
        if batch.eta == eta:
            return Succeeded(status="unchanged", batchref=batchref, eta=day)
        self.version += 1
        self._record(BatchEtaChanged(batchref, self.sku, eta))
        batch.eta = eta
        self._review(batch)
        return Succeeded(status="changed", batchref=batchref, eta=day)

    def choose_strategy(self, strategy: str) -> Outcome:
        """Have the batches serve in this order from now on; what is promised stays."""
        if strategy == self.strategy:
            return Succeeded(status="unchanged", strategy=strategy)
        self.version += 1
        self.strategy = strategy
        self._record(StrategyChosen(self.sku, strategy))
        return Succeeded(status="changed", strategy=strategy)

    # Lines

    def allocate(self, line: OrderLine) -> Outcome:
        """Promise stock to `line`, or queue it until stock arrives. Repeating a line is a no-op."""
        if self._reserved(line.orderid):
            return self._refused("reserved", line.orderid)
        known = self._books.parts(line.orderid)
        return self._repeated(known, line) if known else self._take(line, expires_at=None)

    def reserve(self, line: OrderLine, expires_at: datetime) -> Outcome:
        """Hold stock for `line` as `allocate` would, until the follow-up `Expire` ends that."""
        known = self._books.parts(line.orderid)
        if known:
            return self._repeated(known, line)
        self._follow_ups[Expire(line.orderid, expires_at)] = None
        return self._take(line, expires_at)

    def cannot_promise(self, line: OrderLine, *, hold: bool) -> Refused | None:
        """Why `line` would not be promised, or held, at once; older lines are served before."""
        known = self._books.parts(line.orderid)
        if not known:
            before = self.sequence
            batches, all_served = self._serve_waiting()
            self.version += self.sequence > before
            if all_served and enough(batches, line.qty, split=line.split):
                return None
        elif self._reserved(line.orderid) and not hold:
            return self._refused("reserved", line.orderid)
        else:
            repeated = self._repeated(known, line)
            if isinstance(repeated, Refused):
                return repeated
            if not self.waits(line.orderid):
                return None
        return self._refused("not all in stock", line.orderid, field="lines")

    def reserved_until(self, orderid: str) -> datetime | None:
        """When the reservation of the order's line expires; None if it is not reserved."""
        ends = [line.expires_at for line in self._reserved(orderid) if line.expires_at]
        return min(ends, default=None)

    def waits(self, orderid: str) -> bool:
        """Whether pieces of the order's line wait for stock."""
        return self._waiting_pieces(orderid) > 0

    def confirm(self, orderid: str) -> bool:
        """Make the order's reservation an allocation; False if it has none of this product."""
        return self._promise_again(None, self._reserved(orderid))

    def can_extend(self, orderid: str) -> bool:
        """Whether the reservation was never extended; True without one."""
        return not any(line.extended for line in self._reserved(orderid))

    def extend(self, orderid: str, expires_at: datetime) -> bool:
        """Have the reservation expire later; False without one, or if it does already."""
        held = [
            line
            for line in self._reserved(orderid)
            if line.expires_at and line.expires_at < expires_at
        ]
        for line in held:
            line.extended = True
            self._follow_ups[Expire(orderid, expires_at)] = None
        return self._promise_again(expires_at, held)

    def release(self, orderid: str) -> bool:
        """Give up the order's reservation; False if it has none of this product."""
        return self._give_up(self._reserved(orderid), "released")

    def expire(self, orderid: str, expires_at: datetime) -> bool:
        """Give up the reservation if it ends then; one that was confirmed or extended stays."""
        held = [line for line in self._reserved(orderid) if line.expires_at == expires_at]
        return self._give_up(held, "expired")

    def deallocate(self, orderid: str) -> Outcome:
        """Give up the order's line, whatever its status, except goods that were dispatched."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._refused("unknown order line", orderid)
        if not self._give_up([line for line in parts if not line.dispatched], "released"):
            return self._refused("dispatched", orderid)
        return Succeeded(status="deallocated")

    def dispatch(self, orderid: str, batchref: str | None) -> Outcome:
        """Take the goods of an allocated line off its batches' books, or off this one's only."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._refused("unknown order line", orderid)
        firm = [line for line in parts if line.batchref and line.expires_at is None]
        if not firm:
            return self._refused("not allocated", orderid)
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

    # Follow-ups

    def allocate_waiting(self) -> Outcome:
        """Serve the waiting lines that fit, by `service_order`; announce once that others wait."""
        before = self.sequence
        batches, all_served = self._serve_waiting()
        if all_served:
            for line in self._books.waiting_unannounced(LINES_PER_COMMAND):
                self._announce_out_of_stock(line, batches)
            self._leave_allocate_waiting()  # pulled only if some are left
        self.version += self.sequence > before
        return Succeeded(status="served", events=self.sequence - before)

    def review_promises(self, batchref: str) -> Outcome:
        """Go on with the lines that were promised another day than their batch arrives."""
        before = self.sequence
        self._review(self._known_batch(batchref))
        self.version += self.sequence > before
        return Succeeded(status="reviewed", events=self.sequence - before)

    # What the decisions leave: events to publish, follow-ups to execute

    def pull_events(self) -> list[Event]:
        """The events recorded since the last call, in order of their sequence."""
        events, self._events = self._events, []
        return events

    def pull_follow_ups(self) -> list[FollowUp]:
        """The follow-ups of the decisions since the last call, each once.

        Waiting lines need one only if a line fits free stock or OutOfStock was not yet recorded.
        """
        follow_ups, self._follow_ups = self._follow_ups, {}
        return [
            each
            for each in follow_ups
            if not isinstance(each, AllocateWaiting) or self._has_waiting_to_serve()
        ]

    def _has_waiting_to_serve(self) -> bool:
        fits = self._books.first_waiting(at_most=_most_free(self._books.open_batches()))
        return fits is not None or bool(self._books.waiting_unannounced(1))

    def _leave_allocate_waiting(self) -> None:
        self._follow_ups[AllocateWaiting(self.sku)] = None

    def _record(self, event: Event, **fields: Any) -> None:
        """Record the event, with these fields and the next sequence."""
        self.sequence += 1
        self._events.append(replace(event, sequence=self.sequence, **fields))

    # New lines

    def _take(self, line: OrderLine, expires_at: datetime | None) -> Outcome:
        self.version += 1
        taken = Line(
            line.orderid,
            self.sku,
            line.qty,
            age=self.version,
            customer=line.customer,
            smallest_part=1 if line.split else None,
            expires_at=expires_at,
        )
        batches, all_served = self._serve_waiting()
        if all_served and not self._serve(taken, batches):
            self._announce_out_of_stock(taken, batches)
        self._books.add_line(taken)
        return self._answer(self._books.parts(line.orderid))

    def _repeated(self, known: Sequence[Line], line: OrderLine) -> Outcome:
        """A repeated line changes nothing: the answer says where it differs from this request."""
        qty = sum(part.qty for part in known)
        if qty != line.qty:
            return Refused("quantity differs", field="qty", qty=line.qty, known_qty=qty)
        stays: dict[str, Fact] = {}
        if known[0].customer != line.customer:
            stays["customer"] = known[0].customer
        if known[0].split != line.split:
            stays["split"] = known[0].split
        return self._answer(known, **stays)

    def _answer(self, parts: Sequence[Line], **facts: Fact) -> Outcome:
        """The line's status and batch; its parts', if several batches serve it."""
        standings = [self._standing(part) for part in parts]
        if len(standings) == 1:
            return Succeeded(**standings[0], **facts)
        return Succeeded(
            status=status_of_parts(part.status for part in parts),
            parts=[
                {"part": part.part, "qty": part.qty, **standing}
                for part, standing in zip(parts, standings, strict=True)
            ],
            **facts,
        )

    def _standing(self, line: Line) -> dict[str, Plain]:
        eta = self._known_batch(line.batchref).eta if line.batchref is not None else None
        held = {"expires_at": line.expires_at.isoformat()} if line.expires_at else {}
        return {
            "status": line.status,
            "batchref": line.batchref,
            "eta": eta.isoformat() if eta else None,
            **held,
        }

    def _refused(self, reason: str, orderid: str, field: str = "orderid") -> Refused:
        return Refused(reason, field=field, orderid=orderid, sku=self.sku)

    # Serving lines

    def _serve_waiting(self) -> tuple[list[Batch], bool]:
        """Serve at most LINES_PER_COMMAND lines: the batches by preference, and if all were served.

        One pass is enough: stock only shrinks meanwhile, so a line that did not fit in its turn
        does not fit later. A follow-up serves the rest.
        """
        batches = self._strategy.sort(self._books.open_batches())
        line: Line | None = None
        for _ in range(LINES_PER_COMMAND):
            most_free = _most_free(batches)
            line = self._books.first_waiting(at_most=most_free, after=line)
            if line is None:
                return batches, True
            served = self._serve(line, batches)
            assert served or line.split, f"{line.qty} pieces fit no batch with {most_free}"
            if self._strategy.by_free:
                batches = self._strategy.sort(batches)
        self._leave_allocate_waiting()
        return batches, False

    def _serve(self, line: Line, batches: Sequence[Batch]) -> bool:
        """Promise the line stock, in parts if it may; whether nothing of it is left to wait."""
        pieces = pieces_of(batches, line.qty, split=line.split)
        left = line.qty - sum(qty for _, qty in pieces)
        for batch, qty in pieces:
            self._promise(line, qty, batch, batches, left)
        return left == 0

    def _promise(
        self, line: Line, qty: int, batch: Batch, batches: Sequence[Batch], left: int
    ) -> Line:
        """Promise `qty` pieces of a line that holds nothing; returns the part that holds them.

        A batch serves one part of a line: if it serves one already, that part grows. `left` pieces
        of the line still wait afterwards.
        """
        choice = choice_among(batch, batches)
        part = self._part_served_by(batch, line.orderid)
        if part is not None:
            self._free(part, "moved")
            part.qty += qty
            line.qty -= qty
            if line.qty == 0:
                self._remove(line)
        elif qty < line.qty:
            part = self._cut(line, qty)
        else:
            part = line
        batch.allocated += part.qty
        part.eta = batch.eta
        part.told = False
        self._record_promise(part, batch.batchref, left, choice)
        return part

    def _record_promise(
        self, line: Line, batchref: str, waiting: int, choice: Choice | None = None
    ) -> None:
        orderid, qty, eta, customer = line.orderid, line.qty, line.eta, line.customer
        event: Event
        if line.expires_at is None:
            event = Allocated(orderid, self.sku, qty, batchref, eta, customer)
        else:
            event = Reserved(orderid, self.sku, qty, batchref, eta, line.expires_at, customer)
        self._record(event, part=line.part, waiting=waiting, choice=choice)
        line.batchref, line.promised_at = batchref, self.sequence

    def _announce_out_of_stock(self, line: Line, batches: Sequence[Batch]) -> None:
        choice = choice_among(None, batches)
        self._record(OutOfStock(line.orderid, self.sku, line.qty, part=line.part, choice=choice))
        line.told = True

    def _promise_again(self, expires_at: datetime | None, lines: Sequence[Line]) -> bool:
        """Promise the lines again: reserved until then, or, without a time, allocated."""
        self.version += bool(lines)
        for line in lines:
            line.expires_at = expires_at
            if line.batchref is not None:
                self._record_promise(line, line.batchref, self._waiting_pieces(line.orderid))
        return bool(lines)

    # Shortages: who gives way, and new arrival days

    def _set_quantity(self, batch: Batch, qty: int) -> None:
        self._record(BatchQuantityChanged(batch.batchref, self.sku, qty))
        for line in self._books.lines_that_give_way(batch.batchref):
            if batch.allocated <= qty:
                break
            self._give_way(line)
        if qty > batch.purchased:
            self._leave_allocate_waiting()
        batch.purchased = qty

    def _review(self, late: Batch) -> None:
        """Move at most LINES_PER_COMMAND lines of this batch, or publish their new day."""
        # Waiting lines are served before promises improve.
        batches, all_served = self._serve_waiting()
        earlier = [batch for batch in batches if batch.arrival < late.arrival]
        lines = self._books.promised_another_day(late, LINES_PER_COMMAND + 1) if all_served else []
        for line in lines[:LINES_PER_COMMAND]:
            old, qty, part = line.eta, line.qty, line
            better = first_fit(earlier, qty) if arrival(old) < late.arrival else None
            if better is not None:
                waiting = self._waiting_pieces(line.orderid)
                self._free(line, "moved")
                part = self._promise(line, qty, better, earlier, waiting)
                if self._strategy.by_free:
                    earlier = self._strategy.sort(earlier)
            serving = better or late
            part.eta = serving.eta
            if part.eta != old:
                moved = PromiseChanged(line.orderid, self.sku, qty, serving.batchref, old, part.eta)
                self._record(moved, part=part.part)
        if not all_served or len(lines) > LINES_PER_COMMAND:
            self._follow_ups[ReviewPromises(late.batchref)] = None

    def _give_way(self, line: Line) -> None:
        """Free what the line holds; it waits again, with its age, as one part with what waits."""
        self._free(line, "moved")
        if not line.split:
            return
        waiting = [part for part in self._books.parts(line.orderid) if part.batchref is None]
        for part in waiting[1:]:
            waiting[0].qty += part.qty
            waiting[0].told = waiting[0].told and part.told
            self._remove(part)

    def _give_up(self, lines: Sequence[Line], reason: str) -> bool:
        self.version += bool(lines)
        for line in lines:
            self._free(line, reason)
            self._remove(line)
        return bool(lines)

    def _free(self, line: Line, reason: str) -> None:
        orderid, qty, batchref = line.orderid, line.qty, line.batchref
        event: Event = Deallocated(orderid, self.sku, qty, batchref)
        if line.expires_at is not None:
            event = ReservationReleased(orderid, self.sku, qty, batchref, reason)
        self._record(event, part=line.part)
        if line.batchref is None:
            return
        self._known_batch(line.batchref).allocated -= line.qty
        line.batchref = line.promised_at = line.eta = None
        self._leave_allocate_waiting()

    # Parts of lines

    def _part_served_by(self, batch: Batch, orderid: str) -> Line | None:
        """The part of the order's line that holds stock of this batch."""
        return next(
            (
                part
                for part in self._books.parts(orderid)
                if part.batchref == batch.batchref and not part.dispatched
            ),
            None,
        )

    def _cut(self, line: Line, qty: int) -> Line:
        """Make `qty` pieces of the line a part of their own, with a number not used before."""
        parts = self._books.parts(line.orderid) or [line]
        number = 1 + max(max(part.part, part.last_part) for part in parts)
        part = replace(line, qty=qty, part=number, last_part=0, told=False)
        line.qty -= qty
        self._books.add_line(part)
        return part

    def _remove(self, part: Line) -> None:
        """Take the part off the books; the rest of its line never reuses its number."""
        self._books.remove_line(part)
        for other in self._books.parts(part.orderid)[:1]:
            other.last_part = max(other.last_part, part.part, part.last_part)

    def _reserved(self, orderid: str) -> list[Line]:
        return [line for line in self._books.parts(orderid) if line.expires_at is not None]

    def _waiting_pieces(self, orderid: str) -> int:
        return sum(part.qty for part in self._books.parts(orderid) if part.batchref is None)

    @property
    def _strategy(self) -> Strategy:
        return STRATEGIES[self.strategy]

    def _known_batch(self, batchref: str) -> Batch:
        batch = self._books.batch(batchref)
        assert batch is not None, f"no batch {batchref!r} in the books of {self.sku!r}"
        return batch


def _most_free(batches: Sequence[Batch]) -> int:
    return max((batch.free for batch in batches), default=0)
