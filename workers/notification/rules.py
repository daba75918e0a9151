"""Who is mailed about what."""

from dataclasses import dataclass
from typing import Literal

from workers.notification.messages import Allocated, Day, OutOfStock, PromiseChanged


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one team."""

    team: Literal["stock", "orders"]
    subject: str
    text: str


def out_of_stock(message: OutOfStock) -> Mail:
    """The stock team hears of a line that nothing can serve."""
    return Mail(
        "stock",
        f"Out of stock: {message.qty} x {message.sku} for order {message.orderid}",
        f"No batch can serve {message.qty} x {message.sku} for the order {message.orderid}.\n"
        "The order waits and is served as soon as stock fits.\n",
    )


def allocated(message: Allocated, left: str | None) -> Mail | None:
    """The orders team hears of a line that moved: `left` is the batch that it had to leave."""
    if left is None or left == message.batchref:
        return None
    return _moved(message, left, f"Now: {_words(message.day)}\n" if message.day else "")


def promise_changed(message: PromiseChanged, left: str | None) -> Mail:
    """The orders team hears of another day, and of the move if the line had to leave a batch."""
    days = f"Now: {_words(message.new)}\n{old_day(message)}"
    if left is not None and left != message.batchref:
        return _moved(message, left, days)
    return Mail(
        "orders",
        f"New day for order {message.orderid}: {_words(message.new)}",
        f"The order {message.orderid} is promised {message.qty} x {message.sku} from the batch"
        f" {message.batchref}.\n{days}",
    )


def old_day(message: PromiseChanged) -> str:
    """The last line of a mail about another day."""
    return f"Before: {_words(message.old)}\n"


def _moved(message: Allocated | PromiseChanged, left: str, days: str) -> Mail:
    return Mail(
        "orders",
        f"Order {message.orderid} moved to batch {message.batchref}",
        f"The order {message.orderid} was promised {message.qty} x {message.sku} from the batch"
        f" {left}.\nIt is served from the batch {message.batchref} now.\n{days}",
    )


def _words(day: Day) -> str:
    return "on the shelf" if day.eta is None else f"arrives {day.eta}"
