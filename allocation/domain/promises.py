"""How promises are kept: who is served from which batch, who gives way, and what is said of it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypedDict

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
from allocation.domain.outcomes import Fact, Outcome, Plain, Succeeded
from allocation.domain.strategies import (
    EARLIEST_FIRST,
    STRATEGIES,
    Strategy,
    arrival,
    first_fit,
    pieces_of,
)
from allocation.domain.strategies import choice as choice_among

SERVED_AT_ONCE = 500
"""Lines that one command serves, moves or tells at most: it bounds how long it may take."""


class _OfLine(TypedDict):
    part: int
    waiting: int
    choice: Choice | None


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
        """What the decisions since the last call left to be done, each once.

        Waiting lines need a follow-up only if one of them fits free stock, or no event has said yet
        that it waits.
        """
        follow_ups, self._follow_ups = self._follow_ups, {}
        return [
            each
            for each in follow_ups
            if not isinstance(each, AllocateWaiting) or self._has_waiting_to_serve()
        ]

    def _has_waiting_to_serve(self) -> bool:
        largest = max((batch.free for batch in self._books.open_batches()), default=0)
        fits = self._books.oldest_waiting(at_most=largest, after=0)
        return fits is not None or bool(self._books.untold(1))

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
        for line in self._books.untold(SERVED_AT_ONCE):
            self._tell(line, batches)
        self._serve_waiting_next()  # pulled only if some are left

    def _serve(self, line: Allocation, batches: Sequence[Batch]) -> bool:
        """Promise the line stock, in parts if it may; whether nothing of it is left to wait."""
        pieces = pieces_of(batches, line.qty, split=line.split)
        left = line.qty - sum(qty for _, qty in pieces)
        for batch, qty in pieces:
            self._promise_piece(line, qty, batch, batches, left)
        return left == 0

    def _promise_piece(
        self, line: Allocation, qty: int, batch: Batch, batches: Sequence[Batch], left: int
    ) -> Allocation:
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

    def _part_served_by(self, batch: Batch, orderid: str) -> Allocation | None:
        """The part of the order's line that holds stock of this batch."""
        return next(
            (
                part
                for part in self._books.parts(orderid)
                if part.batchref == batch.batchref and not part.dispatched
            ),
            None,
        )

    def _cut(self, line: Allocation, qty: int) -> Allocation:
        """Make `qty` pieces of the line a part of their own, with a number not used before."""
        parts = self._books.parts(line.orderid) or [line]
        number = 1 + max(max(part.part, part.last_part) for part in parts)
        part = Allocation(
            *(line.orderid, self.sku, qty, line.age, line.customer), split=True, part=number
        )
        part.expires_at, part.extended = line.expires_at, line.extended
        line.qty -= qty
        self._books.add_line(part)
        return part

    def _remove(self, part: Allocation) -> None:
        """Take the part off the books; the rest of its line never reuses its number."""
        self._books.remove_line(part)
        for other in self._books.parts(part.orderid)[:1]:
            other.last_part = max(other.last_part, part.part, part.last_part)

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
        lines = self._books.promised_another_day(late, SERVED_AT_ONCE + 1) if all_served else []
        for line in lines[:SERVED_AT_ONCE]:
            old, qty, part = line.eta, line.qty, line
            better = first_fit(earlier, qty) if arrival(old) < arrival(late.eta) else None
            if better is not None:
                waiting = self._waiting_pieces(line)
                self._free(line, "moved")
                part = self._promise_piece(line, qty, better, earlier, waiting)
                if self._strategy.by_free:
                    earlier = self._strategy.sort(earlier)
            serving = better or late
            part.eta = serving.eta
            if part.eta != old:
                name = (line.orderid, self.sku, qty, serving.batchref, old, part.eta)
                self._record(PromiseChanged(*name, part=part.part))
        if not all_served or len(lines) > SERVED_AT_ONCE:
            self._follow_ups[ReviewPromises(late.batchref)] = None

    def _tell(self, line: Allocation, batches: Sequence[Batch]) -> None:
        choice = choice_among(None, batches)
        self._record(OutOfStock(line.orderid, self.sku, line.qty, part=line.part, choice=choice))
        line.told = True

    def _waiting_pieces(self, line: Allocation) -> int:
        """How many pieces of the order's line wait for stock."""
        return sum(part.qty for part in self._books.parts(line.orderid) if part.batchref is None)

    def _record_promise(
        self, line: Allocation, batchref: str, waiting: int, choice: Choice | None = None
    ) -> None:
        name = (line.orderid, self.sku, line.qty, batchref, line.eta)
        of_line: _OfLine = {"part": line.part, "waiting": waiting, "choice": choice}
        if line.expires_at is None:
            self._record(Allocated(*name, line.customer, **of_line))
        else:
            self._record(Reserved(*name, line.expires_at, line.customer, **of_line))
        line.batchref, line.promised_at = batchref, self.sequence

    def _held(self, orderid: str) -> list[Allocation]:
        return [line for line in self._books.parts(orderid) if line.expires_at is not None]

    def _give_up(self, lines: Sequence[Allocation], reason: str) -> bool:
        self.version += bool(lines)
        for line in lines:
            self._free(line, reason)
            self._remove(line)
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
            self._remove(part)

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

    def _answer(self, parts: Sequence[Allocation], **facts: Fact) -> Outcome:
        """How the line stands; where several batches serve it, its parts tell which."""
        told = [self._standing(part) for part in parts]
        if len(told) == 1:
            return Succeeded(**told[0], **facts)
        statuses = {str(part["status"]) for part in told}
        return Succeeded(
            status=statuses.pop() if len(statuses) == 1 else "in parts",
            parts=[
                {"part": part.part, "qty": part.qty, **standing}
                for part, standing in zip(parts, told, strict=True)
            ],
            **facts,
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
