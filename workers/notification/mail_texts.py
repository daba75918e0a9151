"""The mails: which team each goes to, its subject and its text; `mailing` decides on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from workers.notification.messages import (
    Allocated,
    Blocked,
    Day,
    Expired,
    OutOfStock,
    Overdue,
    PromiseChanged,
    Returned,
)


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one team."""

    team: Literal["stock", "orders"]
    subject: str
    text: str


def out_of_stock(message: OutOfStock) -> Mail:
    """Mail the stock team about a line that no batch can serve."""
    return Mail(
        "stock",
        f"Out of stock: {message.qty} x {message.sku} for order {message.orderid}",
        f"No batch can serve {message.qty} x {message.sku} for the order {message.orderid}.\n"
        "The order waits and is served as soon as stock fits.\n",
    )


def still_out_of_stock(message: Allocated, served: int) -> Mail:
    """Mail the stock team that a batch serves `served` of the waiting pieces, others not yet."""
    return Mail(
        "stock",
        f"Still out of stock: {message.waiting} x {message.sku} for order {message.orderid}",
        f"The batch {message.batchref} serves {served} x {message.sku} that the order"
        f" {message.orderid} waited for.\n{_still_waiting(message.sku, message.waiting)}",
    )


def expired(message: Expired) -> Mail:
    """Mail the stock team about pieces that can't be sold any more."""
    return Mail(
        "stock",
        f"Expired: {message.qty} x {message.sku} of batch {message.batchref}",
        f"The batch {message.batchref} was good until {message.best_before}.\n"
        f"Its {message.qty} x {message.sku} serve no order any more; the orders that had them are"
        " served from other batches, or wait.\n",
    )


def overdue(message: Overdue) -> Mail:
    """Mail the stock team about goods that have not arrived."""
    return Mail(
        "stock",
        f"Overdue: batch {message.batchref} of {message.sku}",
        f"The batch {message.batchref} of {message.sku} should have arrived on {message.eta}.\n"
        "Its orders keep their promises; further orders are served from other batches first.\n",
    )


def blocked(message: Blocked) -> Mail:
    """Mail the stock team about goods that are held back, and why."""
    return Mail(
        "stock",
        f"Blocked: batch {message.batchref} of {message.sku}",
        f"The batch {message.batchref} of {message.qty} x {message.sku} serves no order until it is"
        f" unblocked.\nReason: {message.reason}\n",
    )


def returned(message: Returned) -> Mail:
    """Mail the stock team about goods that came back and are no stock."""
    reason = f"Reason: {message.reason}\n" if message.reason else ""
    return Mail(
        "stock",
        f"Returned and not usable: {message.qty} x {message.sku} of order {message.orderid}",
        f"Of the order {message.orderid}, {message.qty} x {message.sku} came back that can't be"
        f" used. They are no stock.\n{reason}",
    )


def moved(message: Allocated, left: Mapping[str, int], waiting: int) -> Mail:
    """Mail the orders team about pieces that moved; `left` says how many left which batch.

    `waiting` pieces of the line still wait; 0 if they may have been served since.
    """
    return _moved(message, left, waiting, f"Now: {_when(message.day)}\n" if message.day else "")


def promise_changed(message: PromiseChanged, left: Mapping[str, int]) -> Mail:
    """Mail the orders team about another day, and about the move if pieces had to leave a batch."""
    days = f"Now: {_when(message.new)}\n{old_day(message)}"
    if left:
        return _moved(message, left, 0, days)
    which = f"{message.qty} of the pieces of order" if message.part else "order"
    return Mail(
        "orders",
        f"New day for {which} {message.orderid}: {_when(message.new)}",
        f"The order {message.orderid} is promised {_pieces(message)} from the batch"
        f" {message.batchref}.\n{days}",
    )


def old_day(message: PromiseChanged) -> str:
    """The last line of a mail about another day."""
    return f"Before: {_when(message.old)}\n"


def _moved(
    message: Allocated | PromiseChanged, left: Mapping[str, int], waiting: int, days: str
) -> Mail:
    qty, batchref = message.qty, message.batchref
    if message.part == 0 and not waiting and list(left.values()) == [qty]:
        return Mail(
            "orders",
            f"Order {message.orderid} moved to batch {batchref}",
            f"The order {message.orderid} was promised {qty} x {message.sku} from the batch"
            f" {next(iter(left))}.\nIt is served from the batch {batchref} now.\n{days}",
        )
    sources = ", ".join(f"{pieces} of {qty} from the batch {ref}" for ref, pieces in left.items())
    rest = _still_waiting(message.sku, waiting) if waiting else ""
    return Mail(
        "orders",
        f"Order {message.orderid}: {sum(left.values())} of the pieces moved to batch {batchref}",
        f"The batch {batchref} serves {_pieces(message)} for the order {message.orderid} now.\n"
        f"Moved: {sources}.\n{rest}{days}",
    )


def _pieces(message: Allocated | PromiseChanged) -> str:
    of = "of the pieces of" if message.part else "x"
    return f"{message.qty} {of} {message.sku}"


def _still_waiting(sku: str, qty: int) -> str:
    return f"Still waiting: {qty} x {sku}.\n"


def _when(day: Day) -> str:
    return "on the shelf" if day.eta is None else f"arrives {day.eta}"
