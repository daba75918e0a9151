"""The pick list's rules: what an event does to the picks of one order line."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.warehouse.messages import Allocated, Deallocated


@dataclass(slots=True)
class Pick:
    """One walk to the shelf: `opened` and `closed` are the sequences of the events that did it."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    opened: int
    closed: int | None = None

    @property
    def newest(self) -> int:
        """The sequence of the last event that is known of it."""
        return max(self.opened, self.closed or 0)


def open_pick(picks: Sequence[Pick], message: Allocated, sequence: int) -> Pick | None:
    """The pick that the event opens; None when later events of the line are known already.

    A line has one open pick at most: one that is still open is cancelled, as the event that should
    have done so is missing.
    """
    if any(pick.newest >= sequence for pick in picks):
        return None
    for pick in picks:
        if pick.closed is None:
            pick.closed = sequence
    return Pick(message.orderid, message.sku, message.qty, message.batchref, opened=sequence)


def cancel_pick(picks: Sequence[Pick], message: Deallocated, sequence: int) -> Pick | None:
    """Close the pick that the event takes back, if it is still open.

    Where that pick was never heard of, it is returned, cancelled: it stands for the allocation that
    is missing, which must not open it any more should it come.
    """
    for pick in picks:
        same = pick.batchref == message.batchref and pick.opened < sequence
        if same and pick.closed is None:
            pick.closed = sequence
    if message.batchref is None or any(pick.newest >= sequence for pick in picks):
        return None
    return Pick(
        message.orderid, message.sku, message.qty, message.batchref, sequence, closed=sequence
    )
