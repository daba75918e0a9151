"""The rules of picks: what an event does to those of one order line, or of a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from workers.warehouse.messages import (
    Allocated,
    Deallocated,
    Dispatched,
    Message,
    PromiseChanged,
)


@dataclass(slots=True)
class Pick:
    """Pieces to fetch; `opened` and `closed` are the sequences of the events that did so.

    `gone` of the `qty` pieces were dispatched. A pick of which all are is no longer open, and no
    event closes it. `confirmed` of them are off Allocation's books, as far as the warehouse knows.
    `eta` is the day on which the goods arrive, None if they are there; `eta_sequence` is that of
    the event that changed it.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str
    opened: int
    closed: int | None = None
    part: int = 0
    eta: date | None = None
    eta_sequence: int | None = None
    gone: int = 0
    confirmed: int = 0

    @property
    def dispatched(self) -> bool:
        """Whether all pieces have left."""
        return self.gone >= self.qty

    @property
    def left(self) -> int:
        """Pieces that are still to be picked, now or once they have arrived."""
        return self.qty - self.gone if self.is_open else 0

    @property
    def is_open(self) -> bool:
        """Whether pieces are still to be picked, now or once they have arrived."""
        return self.closed is None and not self.dispatched

    @property
    def is_due(self) -> bool:
        """Whether pieces can be picked now."""
        return self.is_open and self.eta is None

    @property
    def status(self) -> str:
        """One of open, expected (open once the goods arrive), cancelled and dispatched."""
        if self.dispatched:
            return "dispatched"
        if self.closed is not None:
            return "cancelled"
        return "open" if self.eta is None else "expected"

    @property
    def newest(self) -> int:
        """The sequence of the last known event that opened or closed the pick."""
        return max(self.opened, self.closed or 0)


def dispatched_pick(picks: Sequence[Pick]) -> Pick | None:
    """The dispatched pick of the line, if any: no event cancels it, and no other pick follows."""
    return next((pick for pick in picks if pick.dispatched), None)


def confirm_dispatch(picks: Sequence[Pick], message: Dispatched, sequence: int) -> Pick | None:
    """Note which pieces are off Allocation's books; they have left, if that was not known yet.

    Only a warehouse that was rebuilt does not know it, or one whose goods somebody else dispatched.
    Returns a pick if none is known.
    """
    for pick in picks:
        if pick.is_open and pick.batchref == message.batchref:
            pick.confirmed = max(pick.confirmed, pick.qty - message.left)
            pick.gone = max(pick.gone, pick.confirmed)
            return None
    qty = message.qty + message.left
    return _opened(message, message.batchref, sequence, qty, gone=message.qty)


def open_pick(picks: Sequence[Pick], message: Allocated, sequence: int) -> Pick | None:
    """The pick that the event opens; None if later events of the line are known.

    A line has one open pick at most: a pick that is still open is cancelled, as the event that
    should have done so is missing. Pieces that had left when Allocation moved the line are counted
    as pieces of the new pick: nobody fetches them twice.
    """
    if any(pick.newest >= sequence for pick in picks):
        return None
    left_before = 0
    for pick in picks:
        if pick.is_open:
            pick.closed = sequence
        left_before += pick.gone - pick.confirmed
        pick.confirmed = pick.gone
    opened = _opened(message, message.batchref, sequence, message.qty)
    opened.eta = message.eta
    opened.gone = min(left_before, message.qty)
    return opened


def cancel_pick(picks: Sequence[Pick], message: Deallocated, sequence: int) -> Pick | None:
    """Cancel the pick that the event takes back, if it is still open.

    Returns a cancelled pick if none is known: it stands for the missing allocation, which must not
    open a pick if it comes late.
    """
    for pick in picks:
        same = pick.batchref == message.batchref and pick.opened < sequence
        if same and pick.is_open:
            pick.closed = sequence
    if message.batchref is None or any(pick.newest >= sequence for pick in picks):
        return None
    pick = _opened(message, message.batchref, sequence, message.qty)
    pick.closed = sequence
    return pick


def change_day(picks: Sequence[Pick], message: PromiseChanged, sequence: int) -> None:
    """Note when the goods of the open pick arrive, or that they are there.

    A reserved line has no pick: the event that opens one says the day.
    """
    for pick in picks:
        known = pick.eta_sequence or pick.opened
        if pick.is_open and pick.batchref == message.batchref and known < sequence:
            pick.eta, pick.eta_sequence = message.eta, sequence


def _opened(message: Message, batchref: str, sequence: int, qty: int, gone: int = 0) -> Pick:
    return Pick(
        message.orderid,
        message.sku,
        qty,
        batchref,
        opened=sequence,
        part=message.part,
        gone=gone,
        confirmed=gone,
    )
