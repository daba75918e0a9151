"""The aggregate: a Product decides what each command does to its batches and lines."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from typing import Any

from allocation.domain.books import (
    Batch,
    Books,
    Line,
    OrderLine,
    arrival,
    line_version,
    status_of_parts,
)
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
    BatchBlocked,
    BatchCreated,
    BatchEtaChanged,
    BatchExpired,
    BatchOverdue,
    BatchQuantityChanged,
    BatchUnblocked,
    BestBeforeChanged,
    Choice,
    Deallocated,
    Dispatched,
    Event,
    LineQuantityChanged,
    OutOfStock,
    PriorityChanged,
    ProductCreated,
    PromiseChanged,
    Received,
    ReservationReleased,
    Reserved,
    Returned,
    StrategyChosen,
    WrittenOff,
)
from allocation.domain.outcomes import Fact, Outcome, Plain, Refused, Succeeded
from allocation.domain.strategies import (
    EARLIEST_FIRST,
    FILL,
    IN_ORDER,
    STRATEGIES,
    Strategy,
    batches_before,
    candidates,
    choice_among,
    earlier_batches,
    enough,
    first_fit,
    pieces_of,
    service_order,
    strategy_version,
)

LINES_PER_COMMAND = 500
"""Lines that one command serves, moves or announces at most: it bounds how long it may take."""


class Product:
    """The batches and order lines of one sku: the consistency boundary.

    `version` counts the decisions that changed it, `sequence` the events that it recorded;
    `strategy` names the order in which its batches serve, `waiting` the rule for waiting lines, and
    `improve` says whether promises move to stock that comes earlier. `today` is the day of the
    decisions; before the first of all days nothing has expired.
    """

    def __init__(
        self,
        sku: str,
        books: Books,
        version: int = 0,
        sequence: int = 0,
        strategy: str = EARLIEST_FIRST,
        waiting: str = FILL,
        improve: bool = True,
        today: date = date.min,
    ) -> None:
        self.sku = sku
        self.version = version
        self.sequence = sequence
        self.strategy = strategy
        self.waiting = waiting
        self.improve = improve
        self._today = today
        self._books = books
        self._events: list[Event] = []
        self._follow_ups: dict[FollowUp, None] = {}

    # The product

    def create(self, strategy: str, waiting: str, improve: bool) -> Outcome:
        """Make the product known before its first batch."""
        self.version += 1
        self.strategy, self.waiting, self.improve = strategy, waiting, improve
        self._record(ProductCreated(self.sku, strategy, waiting, improve))
        return Succeeded(status="created", sku=self.sku)

    def choose_strategy(
        self,
        strategy: str,
        waiting: str = FILL,
        improve: bool = True,
        expected_version: str | None = None,
    ) -> Outcome:
        """Have the batches serve in this order from now on; what is promised stays."""
        if outdated := self._outdated(expected_version, self.strategy_version):
            return outdated
        chosen = strategy, waiting, improve
        if chosen == (self.strategy, self.waiting, self.improve):
            return Succeeded(status="unchanged", strategy=strategy)
        self.version += 1
        self.strategy, self.waiting, self.improve = chosen
        self._record(StrategyChosen(self.sku, strategy, waiting, improve))
        self._leave_allocate_waiting()
        return Succeeded(status="changed", strategy=strategy)

    @property
    def strategy_version(self) -> str:
        """Changes with the order of preference, the waiting rule and `improve`."""
        return strategy_version(self.strategy, self.waiting, self.improve)

    # Batches

    def create_batch(
        self, batchref: str, qty: int, eta: date | None = None, best_before: date | None = None
    ) -> Outcome:
        """Put a batch on the books; the caller has seen that no product has this reference."""
        if refused := self._expires_before_arrival(eta, best_before):
            return refused
        self.version += 1
        self._add_batch(Batch(batchref, self.sku, qty, eta, best_before=best_before))
        return Succeeded(status="created", batchref=batchref)

    def change_batch_quantity(
        self, batchref: str, qty: int, expected_version: str | None = None
    ) -> Outcome:
        """Set the purchased quantity; on a shortage lines give way by `shortage_order`."""
        batch = self._known_batch(batchref)
        if outdated := self._outdated(expected_version, batch.version):
            return outdated
        if batch.purchased == qty:
            return Succeeded(status="unchanged", batchref=batchref, qty=qty)
        self.version += 1
        self._set_quantity(batch, qty)
        return Succeeded(status="changed", batchref=batchref, qty=qty)

    def receive(self, batchref: str, qty: int) -> Outcome:
        """Add pieces to a batch."""
        batch = self._known_batch(batchref)
        self.version += 1
        self._record(Received(batchref, self.sku, qty))
        self._set_quantity(batch, batch.purchased + qty)
        return Succeeded(status="received", batchref=batchref, qty=batch.purchased)

    def write_off(self, batchref: str, qty: int, reason: str) -> Outcome:
        """Write off pieces of a batch; on a shortage lines give way by `shortage_order`."""
        batch = self._known_batch(batchref)
        if qty > batch.purchased:
            return Refused("quantity too large", field="qty", qty=qty, known_qty=batch.purchased)
        self.version += 1
        self._record(WrittenOff(batchref, self.sku, qty, reason))
        self._set_quantity(batch, batch.purchased - qty)
        return Succeeded(status="written off", batchref=batchref, left=batch.purchased)

    def change_batch_eta(
        self, batchref: str, eta: date | None, expected_version: str | None = None
    ) -> Outcome:
        """Set when a batch arrives; lines that another batch serves earlier than that move."""
        batch = self._known_batch(batchref)
        if outdated := self._outdated(expected_version, batch.version):
            return outdated
        day = eta.isoformat() if eta else None
        if batch.eta == eta:
            return Succeeded(status="unchanged", batchref=batchref, eta=day)
        self.version += 1
        self._record(BatchEtaChanged(batchref, self.sku, eta))
        batch.eta, batch.overdue = eta, False
        self._leave_mark_overdue(batch)
        self._move_unserved(batch)
        self._review(batch)
        return Succeeded(status="changed", batchref=batchref, eta=day)

    def change_best_before(
        self, batchref: str, best_before: date | None, expected_version: str | None = None
    ) -> Outcome:
        """Correct the last good day; lines that the batch no longer serves move."""
        batch = self._known_batch(batchref)
        if outdated := self._outdated(expected_version, batch.version):
            return outdated
        if refused := self._expires_before_arrival(batch.eta, best_before):
            return refused
        day = best_before.isoformat() if best_before else None
        if batch.best_before == best_before:
            return Succeeded(status="unchanged", batchref=batchref, best_before=day)
        self.version += 1
        self._record(BestBeforeChanged(batchref, self.sku, best_before))
        batch.best_before, batch.expired = best_before, False
        self._leave_expire_batch(batch)
        self._move_unserved(batch)
        self._leave_allocate_waiting()
        return Succeeded(status="changed", batchref=batchref, best_before=day)

    def block_batch(
        self, batchref: str, reason: str, expected_version: str | None = None
    ) -> Outcome:
        """Have the batch serve no line until it is unblocked; its lines move, or wait."""
        batch = self._known_batch(batchref)
        if outdated := self._outdated(expected_version, batch.version):
            return outdated
        if batch.blocked == reason:
            return Succeeded(status="unchanged", batchref=batchref)
        self.version += 1
        batch.blocked = reason
        self._record(BatchBlocked(batchref, self.sku, batch.purchased, reason))
        self._move_unserved(batch)
        return Succeeded(status="blocked", batchref=batchref)

    def unblock_batch(self, batchref: str, expected_version: str | None = None) -> Outcome:
        """Have a blocked batch serve lines again."""
        batch = self._known_batch(batchref)
        if outdated := self._outdated(expected_version, batch.version):
            return outdated
        if batch.blocked is None:
            return Succeeded(status="unchanged", batchref=batchref)
        self.version += 1
        batch.blocked = None
        self._record(BatchUnblocked(batchref, self.sku))
        self._leave_allocate_waiting()
        return Succeeded(status="unblocked", batchref=batchref)

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
            usable = candidates(batches, line, self._today)
            if (
                all_served
                and not self._would_overtake(line)
                and enough(usable, line.qty, split=line.split)
            ):
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

    def deallocate(self, orderid: str, expected_version: str | None = None) -> Outcome:
        """Give up the order's line, whatever its status, except goods that were dispatched."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._refused("unknown order line", orderid)
        if outdated := self._outdated(expected_version, line_version(parts)):
            return outdated
        if not self.cancel(orderid):
            return self._refused("dispatched", orderid)
        return Succeeded(status="deallocated")

    def cancel(self, orderid: str) -> bool:
        """Give up what has not left of the order's line; False if there is nothing."""
        return self._give_up(
            [line for line in self._books.parts(orderid) if not line.dispatched], "released"
        )

    def dispatched_pieces(self, orderid: str) -> int:
        """Pieces of the order's line that have left."""
        return sum(part.gone for part in self._books.parts(orderid))

    def dispatch(self, orderid: str, batchref: str | None, qty: int | None = None) -> Outcome:
        """Take allocated goods that are there off their batches' books.

        All of them, or those of one batch, or `qty` pieces in the order of the parts.
        """
        parts = self._books.parts(orderid)
        if not parts:
            return self._refused("unknown order line", orderid)
        firm = [line for line in parts if line.batchref and line.expires_at is None]
        if not firm:
            return self._refused("not allocated", orderid)
        asked = [line for line in firm if batchref in (None, line.batchref)]
        if not asked:
            known = firm[0].batchref
            return Refused("another batch", field="batchref", batchref=batchref, known=known)
        held = [(line, self._batch_of(line)) for line in asked if line.held]
        there = [(line, batch) for line, batch in held if not batch.why_it_stays(self._today)]
        if held and not there:
            batch = held[0][1]
            reason = batch.why_it_stays(self._today) or ""
            return Refused(reason, field="batchref", batchref=batch.batchref)
        most = sum(line.held for line, _ in there)
        if qty is not None and qty > most:
            return Refused("quantity too large", field="qty", qty=qty, known_qty=most)
        left = most if qty is None else qty
        self.version += left > 0
        gone: list[dict[str, Any]] = []
        for line, batch in there:
            if pieces := min(line.held, left):
                left -= pieces
                self._dispatch(line, batch, pieces)
                gone.append({"part": line.part, "batchref": batch.batchref, "qty": pieces})
        return self._answer_dispatch(orderid, asked[0].batchref, gone)

    def return_goods(
        self,
        orderid: str,
        qty: int,
        batchref: str,
        usable: bool = True,
        reason: str | None = None,
    ) -> Outcome:
        """Take dispatched pieces back into the batch, or a new one; the caller has seen whose."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._refused("unknown order line", orderid)
        away = sum(part.gone - part.returned for part in parts)
        if qty > away:
            return Refused("quantity too large", field="qty", qty=qty, known_qty=away)
        self.version += 1
        left = qty
        for part in parts:
            pieces = min(part.gone - part.returned, left)
            part.returned += pieces
            left -= pieces
        self._record(Returned(orderid, self.sku, qty, batchref, usable, reason))
        batch = self._books.batch(batchref)
        if usable and batch is None:
            self._add_batch(Batch(batchref, self.sku, qty))
        elif usable and batch is not None:
            self._set_quantity(batch, batch.purchased + qty)
        return Succeeded(status="returned", batchref=batchref if usable else None, qty=qty)

    def change_line_quantity(
        self, orderid: str, qty: int, expected_version: str | None = None
    ) -> Outcome:
        """Have the line want `qty` pieces, with its age; more only if stock is there for all."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._refused("unknown order line", orderid)
        if outdated := self._outdated(expected_version, line_version(parts)):
            return outdated
        known, gone = sum(part.qty for part in parts), self.dispatched_pieces(orderid)
        if qty < gone or (gone == known < qty):
            return Refused("dispatched", field="qty", qty=qty, known_qty=gone)
        if (
            qty > known
            and not self._waiting_pieces(orderid)
            and not self._all_who_wait_are_served()
        ):
            return Refused("not enough stock", field="qty", qty=qty, known_qty=known)
        if qty != known:
            change = (
                partial(self._give_up_pieces, orderid, known - qty)
                if qty < known
                else self._way_to_grow(orderid, qty - known)
            )
            if change is None:
                return Refused("not enough stock", field="qty", qty=qty, known_qty=known)
            self.version += 1
            self._record(LineQuantityChanged(orderid, self.sku, known, qty))
            change()
        return self._answer(self._books.parts(orderid), qty=qty)

    def change_priority(
        self, orderid: str, priority: int, expected_version: str | None = None
    ) -> Outcome:
        """Have the order's line be served by this priority from now on."""
        parts = self._books.parts(orderid)
        if not parts:
            return self._refused("unknown order line", orderid)
        if outdated := self._outdated(expected_version, line_version(parts)):
            return outdated
        if parts[0].priority == priority:
            return Succeeded(status="unchanged", priority=priority)
        self.version += 1
        for part in parts:
            part.priority = priority
        self._record(PriorityChanged(orderid, self.sku, priority))
        self._leave_allocate_waiting()
        return Succeeded(status="changed", priority=priority)

    # Follow-ups

    def allocate_waiting(self) -> Outcome:
        """Serve the waiting lines, improve promises, and announce once which lines still wait."""
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

    def expire_batch(self, batchref: str, best_before: date) -> Outcome:
        """Take the batch out once: its lines move, or wait, as after a shortage."""
        batch = self._known_batch(batchref)
        if batch.best_before != best_before or batch.expired:
            return Succeeded(status="kept", batchref=batchref)
        if not batch.has_expired(self._today):
            self._leave_expire_batch(batch)
            return Succeeded(status="kept", batchref=batchref)
        self.version += 1
        batch.expired = True
        self._record(BatchExpired(batchref, self.sku, batch.purchased, best_before))
        self._move_unserved(batch)
        return Succeeded(status="expired", batchref=batchref, qty=batch.purchased)

    def mark_overdue(self, batchref: str, eta: date) -> Outcome:
        """Record once that the batch has not arrived on its day; its promises stay."""
        batch = self._known_batch(batchref)
        if batch.eta != eta or batch.overdue:
            return Succeeded(status="kept", batchref=batchref)
        if not batch.is_overdue(self._today):
            self._leave_mark_overdue(batch)
            return Succeeded(status="kept", batchref=batchref)
        self.version += 1
        batch.overdue = True
        self._record(BatchOverdue(batchref, self.sku, eta))
        return Succeeded(status="overdue", batchref=batchref)

    # What the decisions leave: events to publish, follow-ups to execute

    def pull_events(self) -> list[Event]:
        """The events recorded since the last call, in order of their sequence."""
        events, self._events = self._events, []
        return events

    def pull_follow_ups(self) -> list[FollowUp]:
        """The follow-ups of the decisions since the last call, each once.

        AllocateWaiting is needed only if a line waits for free stock, or OutOfStock was not yet
        recorded, or a promise improves.
        """
        follow_ups, self._follow_ups = self._follow_ups, {}
        return [
            each
            for each in follow_ups
            if not isinstance(each, AllocateWaiting) or self._has_lines_to_serve()
        ]

    def _has_lines_to_serve(self) -> bool:
        batches = self._books.open_batches()
        return (
            self._next_waiting(batches) is not None
            or bool(self._books.waiting_unannounced(1))
            or self._next_to_improve(batches) is not None
        )

    def _leave_allocate_waiting(self) -> None:
        self._follow_ups[AllocateWaiting(self.sku)] = None

    def _leave_expire_batch(self, batch: Batch) -> None:
        if batch.best_before is not None and batch.best_before < date.max:
            self._follow_ups[ExpireBatch(batch.batchref, batch.best_before)] = None

    def _leave_mark_overdue(self, batch: Batch) -> None:
        if batch.eta is not None and batch.eta < date.max:
            self._follow_ups[MarkOverdue(batch.batchref, batch.eta)] = None

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
            priority=line.priority,
            not_before=line.not_before,
            fresh_days=line.fresh_days,
        )
        batches, all_served = self._serve_waiting()
        if all_served and (self._would_overtake(taken) or not self._serve(taken, batches)):
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
        for name in ("split", "priority", "not_before", "fresh_days"):
            if (kept := getattr(known[0], name)) != getattr(line, name):
                stays[name] = kept.isoformat() if isinstance(kept, date) else kept
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
        standing: dict[str, Plain] = {
            "status": line.status,
            "batchref": line.batchref,
            "eta": eta.isoformat() if eta else None,
        }
        if line.expires_at:
            standing["expires_at"] = line.expires_at.isoformat()
        if line.dispatched_qty:
            standing["dispatched_qty"] = line.dispatched_qty
        return standing

    def _answer_dispatch(
        self, orderid: str, batchref: str | None, gone: Sequence[dict[str, Any]]
    ) -> Outcome:
        """Of which batches goods have left now; how many, if pieces of the line are `left`."""
        facts: dict[str, Fact] = {}
        if len(gone) > 1:
            facts["parts"] = list(gone)
        else:
            facts["batchref"] = gone[0]["batchref"] if gone else batchref
        if left := sum(part.qty - part.gone for part in self._books.parts(orderid)):
            facts |= {"qty": sum(part["qty"] for part in gone), "left": left}
        return Succeeded(status="dispatched", **facts)

    def _outdated(self, expected: str | None, version: str) -> Refused | None:
        if expected in (None, version):
            return None
        return Refused("changed meanwhile", field="expected_version", version=version)

    def _expires_before_arrival(self, eta: date | None, best_before: date | None) -> Refused | None:
        if eta is None or best_before is None or best_before >= eta:
            return None
        return Refused(
            "expires before arrival",
            field="best_before",
            best_before=best_before.isoformat(),
            eta=eta.isoformat(),
        )

    def _refused(self, reason: str, orderid: str, field: str = "orderid") -> Refused:
        return Refused(reason, field=field, orderid=orderid, sku=self.sku)

    # Serving lines

    def _serve_waiting(self) -> tuple[list[Batch], bool]:
        """Serve waiting lines, then improve promises: the batches by preference, and if it is done.

        At most LINES_PER_COMMAND lines; a follow-up goes on. While only waiting lines are served,
        one pass is enough: stock only shrinks meanwhile, so a line that did not fit in its turn
        does not fit later. A line that moves frees stock, and the pass begins anew.
        """
        batches = self._sorted(self._books.open_batches())
        line: Line | None = None
        for _ in range(LINES_PER_COMMAND):
            line = self._next_waiting(batches, after=line)
            if line is not None:
                served = self._serve(line, batches)
                assert served or line.split, f"{line.qty} pieces of {line.orderid} fit no batch"
            elif (later := self._next_to_improve(batches)) is not None:
                self._improve(later, batches)
                batches = self._sorted(self._books.open_batches())
            else:
                return batches, True
            if self._strategy.by_free:
                batches = self._sorted(batches)
        self._leave_allocate_waiting()
        return batches, False

    def _all_who_wait_are_served(self) -> bool:
        """Serve the waiting lines that fit; False if some of them are left to a follow-up."""
        before = self.sequence
        _, all_served = self._serve_waiting()
        self.version += self.sequence > before
        return all_served

    def _next_waiting(self, batches: Sequence[Batch], after: Line | None = None) -> Line | None:
        """The first waiting line behind `after` that may be served now."""
        if self.waiting != IN_ORDER:
            return self._books.first_waiting(batches, self._today, after)
        first = self._books.longest_waiting()
        if first is None or not any(
            batch.free >= first.needs for batch in candidates(batches, first, self._today)
        ):
            return None
        return first

    def _next_to_improve(self, batches: Sequence[Batch]) -> Line | None:
        """The first line that may move to stock that comes earlier than it was promised."""
        if not self.improve or (self.waiting == IN_ORDER and self._books.longest_waiting()):
            return None
        return self._books.promised_later(batches, self._today)

    def _would_overtake(self, line: Line | OrderLine) -> bool:
        """Whether an older or more urgent line waits, and nothing may be served past it."""
        if self.waiting != IN_ORDER:
            return False
        first = self._books.longest_waiting()
        return first is not None and first.priority >= line.priority

    def _serve(self, line: Line, batches: Sequence[Batch]) -> bool:
        """Promise the line stock, in parts if it may; whether nothing of it is left to wait."""
        usable = candidates(batches, line, self._today)
        pieces = pieces_of(usable, line.qty, split=line.split)
        left = line.qty - sum(qty for _, qty in pieces)
        for batch, qty in pieces:
            self._promise(line, qty, batch, usable, left)
        return left == 0

    def _improve(self, line: Line, batches: Sequence[Batch]) -> None:
        """Move a promised line to the first batch that serves it earlier."""
        earlier = earlier_batches(batches, line, self._today)
        better = first_fit(earlier, line.held)
        assert better is not None, f"{line.orderid} improves by no batch"
        self._move(line, better, earlier)

    def _move(self, line: Line, batch: Batch, batches: Sequence[Batch], more: int = 0) -> None:
        """Promise anew what a line holds, and `more` pieces, from this batch."""
        old, waiting = line.eta, self._waiting_pieces(line.orderid)
        self._free(line, "moved")
        line.qty += more
        qty = line.qty
        part = self._promise(line, qty, batch, batches, waiting)
        if batch.eta != old:
            self._record_new_day(part, qty, batch, old)

    def _record_new_day(self, part: Line, qty: int, batch: Batch, old: date | None) -> None:
        part.eta = batch.eta
        moved = PromiseChanged(part.orderid, self.sku, qty, batch.batchref, old, batch.eta)
        self._record(moved, part=part.part)

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
        choice = choice_among(None, candidates(batches, line, self._today))
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

    def _move_unserved(self, batch: Batch) -> None:
        """Free the lines that the batch may no longer serve; they move, or wait."""
        if not batch.is_good(self._today):
            for line in self._books.lines_that_give_way(batch.batchref):
                self._give_way(line)
            return
        for line in self._books.particular_lines(batch.batchref):
            if not batch.serves(line, self._today):
                self._give_way(line)

    def _review(self, changed: Batch) -> None:
        """Move at most LINES_PER_COMMAND lines of this batch, or publish their new day."""
        # Waiting lines are served before promises improve.
        batches, all_served = self._serve_waiting()
        stuck = self.waiting == IN_ORDER and self._books.longest_waiting() is not None
        limit = LINES_PER_COMMAND + 1
        lines = self._books.promised_another_day(changed, limit) if all_served else []
        for line in lines[:LINES_PER_COMMAND]:
            old, earlier = line.eta, []
            if arrival(old) < changed.arrival and not stuck:
                earlier = batches_before(changed.arrival, batches, line, self._today)
            better = first_fit(earlier, line.held)
            if better is None:
                self._record_new_day(line, line.held, changed, old)
            else:
                self._move(line, better, earlier)
                if self._strategy.by_free:
                    batches = self._sorted(batches)
        if not all_served or len(lines) > LINES_PER_COMMAND:
            self._follow_ups[ReviewPromises(changed.batchref)] = None

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

    def _give_up_pieces(self, orderid: str, qty: int) -> None:
        """Give up `qty` pieces of the line: waiting ones first, then those that arrive last."""

        def comes_last(part: Line) -> tuple[bool, bool, date]:
            eta = part.eta
            is_overdue = eta is not None and eta < self._today
            return part.batchref is None, is_overdue, arrival(eta)

        parts = [part for part in self._books.parts(orderid) if not part.dispatched]
        for part in sorted(parts, key=comes_last, reverse=True):
            pieces = min(part.qty - part.gone, qty)
            qty -= pieces
            if pieces == part.qty - part.gone:
                self._give_up([part], "released")
            elif pieces and part.batchref is None:
                part.qty -= pieces
                self._books.add_line(part)  # it may fit now
                self._leave_allocate_waiting()
            elif pieces:
                batch = self._batch_of(part)
                self._move(part, batch, [batch], more=-pieces)

    def _way_to_grow(self, orderid: str, qty: int) -> Callable[[], object] | None:
        """The change that gives the line `qty` more pieces; None if there are not enough."""
        parts = [part for part in self._books.parts(orderid) if not part.dispatched]
        part = next((part for part in parts if part.batchref is None), parts[-1])
        if part.batchref is None:
            return partial(self._wait_for_more, part, qty)
        first = self._books.longest_waiting() if self.waiting == IN_ORDER else None
        if first is not None and service_order(first) < service_order(part):
            return None
        batch, batches = self._batch_of(part), self._sorted(self._books.open_batches())
        usable = candidates(batches, part, self._today)
        if batch in usable and batch.free >= qty:
            return partial(self._move, part, batch, usable, more=qty)
        if part.split and enough(usable, qty, split=True):
            return partial(self._take_another_part, part, qty, batches)
        whole = first_fit(usable, part.held + qty)
        return partial(self._move, part, whole, usable, more=qty) if whole is not None else None

    def _wait_for_more(self, part: Line, qty: int) -> None:
        part.qty += qty

    def _take_another_part(self, part: Line, qty: int, batches: Sequence[Batch]) -> None:
        part.qty += qty
        self._serve(self._cut(part, qty), batches)

    def _dispatch(self, line: Line, batch: Batch, qty: int) -> None:
        batch.purchased -= qty
        batch.allocated -= qty
        line.dispatched_qty += qty
        left = line.held
        if not left:
            line.dispatched, line.dispatched_qty = True, 0
        event = Dispatched(line.orderid, self.sku, qty, batch.batchref, left=left)
        self._record(event, part=line.part)

    def _free(self, line: Line, reason: str) -> None:
        if line.dispatched_qty:
            self._cut_dispatched(line)
        orderid, qty, batchref = line.orderid, line.qty, line.batchref
        event: Event = Deallocated(orderid, self.sku, qty, batchref)
        if line.expires_at is not None:
            event = ReservationReleased(orderid, self.sku, qty, batchref, reason)
        self._record(event, part=line.part)
        if line.batchref is None:
            if self.waiting == IN_ORDER:  # others may have waited behind it
                self._leave_allocate_waiting()
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
        """Make `qty` pieces of the line a part that waits, with a number not used before."""
        parts = self._books.parts(line.orderid) or [line]
        number = 1 + max(max(part.part, part.last_part) for part in parts)
        part = replace(
            line,
            qty=qty,
            part=number,
            last_part=0,
            batchref=None,
            promised_at=None,
            eta=None,
            told=False,
            dispatched_qty=0,
            returned=0,
        )
        line.qty -= qty
        self._books.add_line(part)
        return part

    def _cut_dispatched(self, line: Line) -> None:
        """Make the pieces that have left a part of their own."""
        gone = self._cut(line, line.dispatched_qty)
        gone.batchref, gone.promised_at, gone.eta = line.batchref, line.promised_at, line.eta
        gone.dispatched, gone.returned = True, line.returned
        line.dispatched_qty = line.returned = 0

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

    def _sorted(self, batches: Sequence[Batch]) -> list[Batch]:
        return self._strategy.sort(batches, self._today)

    def _add_batch(self, batch: Batch) -> None:
        self._books.add_batch(batch)
        self._record(
            BatchCreated(batch.batchref, self.sku, batch.purchased, batch.eta, batch.best_before)
        )
        self._leave_expire_batch(batch)
        self._leave_mark_overdue(batch)
        self._leave_allocate_waiting()

    def _batch_of(self, line: Line) -> Batch:
        assert line.batchref is not None, f"{line.orderid} holds no stock"
        return self._known_batch(line.batchref)

    def _known_batch(self, batchref: str) -> Batch:
        batch = self._books.batch(batchref)
        assert batch is not None, f"no batch {batchref!r} in the books of {self.sku!r}"
        return batch
