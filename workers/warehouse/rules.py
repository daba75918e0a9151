"""The pick list's rules: what an event does to the picks of one order line, or of a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.warehouse.messages import Allocated, Deallocated, Dispatched


@dataclass(slots=True)
class Pick:
    """One walk to the shelf: `opened` and `closed` are the sequences of the events that did it.

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
        """Somebody is to walk."""
        return self.closed is None and not self.dispatched

    @property
    def status(self) -> str:
        """As people call it: open, cancelled or dispatched."""
        if self.dispatched:
            return "dispatched"
        return "open" if self.closed is None else "cancelled"

    @property
    def newest(self) -> int:
        """The sequence of the last event that is known of it."""
        return max(self.opened, self.closed or 0)


def dispatched_pick(picks: Sequence[Pick]) -> Pick | None:
    """The pick by which the line's goods have left.

    With it the line is done: no event takes it back, and no other goods follow.
    """
    return next((pick for pick in picks if pick.dispatched), None)


def dispatch_pick(picks: Sequence[Pick], message: Dispatched, sequence: int) -> Pick | None:
    """Note that the goods have left; only a warehouse that was rebuilt does not know it yet.

    Where their pick was never heard of, it is returned, dispatched.
    """
    for pick in picks:
        if pick.is_open and pick.batchref == message.batchref:
            pick.dispatched = True
            return None
    return Pick(
        *(message.orderid, message.sku, message.qty, message.batchref, sequence),
        dispatched=True,
        part=message.part,
    )


def open_pick(picks: Sequence[Pick], message: Allocated, sequence: int) -> Pick | None:
    """The pick that the event opens; None when later events of the line are known already.

    A line has one open pick at most: one that is still open is cancelled, as the event that should
    have done so is missing.
    """
    if any(pick.newest >= sequence for pick in picks):
        return None
    for pick in picks:
        if pick.is_open:
            pick.closed = sequence
    return Pick(
        *(message.orderid, message.sku, message.qty, message.batchref, sequence), part=message.part
    )


def cancel_pick(picks: Sequence[Pick], message: Deallocated, sequence: int) -> Pick | None:
    """Close the pick that the event takes back, if it is still open.

    Where that pick was never heard of, it is returned, cancelled: it stands for the allocation that
    is missing, which must not open it any more should it come.
    """
    for pick in picks:
        same = pick.batchref == message.batchref and pick.opened < sequence
        if same and pick.is_open:
            pick.closed = sequence
    if message.batchref is None or any(pick.newest >= sequence for pick in picks):
        return None
    return Pick(
        *(message.orderid, message.sku, message.qty, message.batchref, sequence),
        closed=sequence,
        part=message.part,
    )
