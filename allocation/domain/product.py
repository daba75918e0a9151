"""Stock rules: the Product decides what each command does to its batches and lines."""

from collections.abc import Sequence
from datetime import date, datetime

from allocation.domain.books import Allocation, Batch, OrderLine
from allocation.domain.commands import Expire
from allocation.domain.events import (
    BatchCreated,
    BatchEtaChanged,
    Dispatched,
    StrategyChosen,
    WrittenOff,
)
from allocation.domain.outcomes import Fact, Outcome, Refused, Succeeded
from allocation.domain.promises import Promises
from allocation.domain.strategies import enough


class Product(Promises):
    """The batches and order lines of one sku: the consistency boundary.

    `version` counts the decisions that changed it, `sequence` the events that it recorded;
    `strategy` names the order in which its batches serve.
    """

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

    def held_until(self, orderid: str) -> datetime | None:
        """When the hold on the order's line ends; None if the line is not held."""
        return min(
            (line.expires_at for line in self._held(orderid) if line.expires_at), default=None
        )

    def waits(self, orderid: str) -> bool:
        """Whether pieces of the order's line wait for stock."""
        return any(line.batchref is None for line in self._books.parts(orderid))

    def confirm(self, orderid: str) -> bool:
        """Make the order's held line an allocation; False when it holds none here."""
        held = self._held(orderid)
        self.version += bool(held)
        for line in held:
            line.expires_at = None
            if line.batchref is not None:
                self._record_promise(line, line.batchref, self._waiting_pieces(line))
        return bool(held)

    def can_extend(self, orderid: str) -> bool:
        """Whether the order's line may be held for longer: it never was. True without one."""
        return not any(line.extended for line in self._held(orderid))

    def extend(self, orderid: str, expires_at: datetime) -> bool:
        """Hold the order's held line until then; False if it is not held, or for longer already."""
        held = [
            line for line in self._held(orderid) if line.expires_at and line.expires_at < expires_at
        ]
        self.version += bool(held)
        for line in held:
            line.expires_at = expires_at
            line.extended = True
            self._follow_ups[Expire(orderid, expires_at)] = None
            if line.batchref is not None:
                self._record_promise(line, line.batchref, self._waiting_pieces(line))
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
        # The line stays as it is: the answer says where it differs from what was asked now.
        stays: dict[str, Fact] = {}
        if known[0].customer != line.customer:
            stays["customer"] = known[0].customer
        if known[0].split != line.split:
            stays["split"] = known[0].split
        return self._answer(known, **stays)

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
            self._tell_who_waits(batches)
        if self.sequence > before:
            self.version += 1
        return Succeeded(status="served", events=self.sequence - before)

    def _unknown_line(self, orderid: str) -> Refused:
        return Refused("unknown order line", field="orderid", orderid=orderid, sku=self.sku)
