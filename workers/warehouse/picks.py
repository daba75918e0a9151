"""The rules of picks: what an event does to those of one order line, or of a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.warehouse.messages import Allocated, Deallocated, Dispatched, Message


@dataclass(slots=True)
class Pick:
    """Pieces to fetch; `opened` and `closed` are the sequences of the events that did so.

    A dispatched pick is no longer open, and no event closes it.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str
    opened: int
    closed: int | None = None
    dispatched: bool = False
    part: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the pieces are still to be picked."""
        return self.closed is None and not self.dispatched

    @property
    def status(self) -> str:
        """One of open, cancelled and dispatched, as stored and shown."""
        if self.dispatched:
            return "dispatched"
        return "open" if self.closed is None else "cancelled"

    @property
    def newest(self) -> int:
        """The sequence of the last known event about the pick."""
        return max(self.opened, self.closed or 0)


def dispatched_pick(picks: Sequence[Pick]) -> Pick | None:
    """The dispatched pick of the line, if any: no event cancels it, and no other pick follows."""
    return next((pick for pick in picks if pick.dispatched), None)


def dispatch_pick(picks: Sequence[Pick], message: Dispatched, sequence: int) -> Pick | None:
    """Mark the pick as dispatched; only a warehouse that was rebuilt does not know it yet.

    Returns a dispatched pick if none is known.
    """
    for pick in picks:
        if pick.is_open and pick.batchref == message.batchref:
            pick.dispatched = True
            return None
    pick = _opened(message, message.batchref, sequence)
    pick.dispatched = True
    return pick


def open_pick(picks: Sequence[Pick], message: Allocated, sequence: int) -> Pick | None:
    """The pick that the event opens; None if later events of the line are known.

    A line has one open pick at most: a pick that is still open is cancelled, as the event that
    should have done so is missing.
    """
    if any(pick.newest >= sequence for pick in picks):
        return None
    for pick in picks:
        if pick.is_open:
            pick.closed = sequence
    return _opened(message, message.batchref, sequence)


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
    pick = _opened(message, message.batchref, sequence)
    pick.closed = sequence
    return pick


def _opened(message: Message, batchref: str, sequence: int) -> Pick:
    return Pick(
        message.orderid, message.sku, message.qty, batchref, opened=sequence, part=message.part
    )
