"""How promises are kept: who is served from which batch, who gives way, and what is said of it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from itertools import count

from allocation.domain.books import Allocation, Batch, Books, MemoryBooks
from allocation.domain.commands import AllocateWaiting, FollowUp, ReviewPromises
from allocation.domain.events import (
    Allocated,
    BatchQuantityChanged,
    Choice,
    Deallocated,
    Event,
    OutOfStock,
    PromiseChanged,
    ReservationReleased,
    Reserved,
)
from allocation.domain.outcomes import Outcome, Plain, Succeeded
from allocation.domain.preference import (
    EARLIEST_FIRST,
    STRATEGIES,
    Strategy,
    arrival,
    first_fit,
)
from allocation.domain.preference import choice as choice_among

SERVED_AT_ONCE = 500
"""Lines that one command serves, moves or tells at most: it bounds how long it may take."""


class Promises:
    """The promises of one sku's batches to its lines; the Product's commands work on these."""

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

    def _tell_who_waits(self, batches: Sequence[Batch]) -> None:
        """Tell at most SERVED_AT_ONCE lines that they wait, each once."""
        untold = self._books.untold(SERVED_AT_ONCE)
        for line in untold:
            self._tell(line, batches)
        if len(untold) == SERVED_AT_ONCE:
            self._serve_waiting_next()

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
