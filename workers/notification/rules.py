"""Who is mailed about what."""

from dataclasses import dataclass
from typing import Literal

from workers.notification.messages import Allocated, OutOfStock


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
    return Mail(
        "orders",
        f"Order {message.orderid} moved to batch {message.batchref}",
        f"The order {message.orderid} was promised {message.qty} x {message.sku} from the batch"
        f" {left},\nwhich can't serve it any more."
        f" It is served from the batch {message.batchref} now.\n",
    )
