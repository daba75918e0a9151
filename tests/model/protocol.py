"""The mechanisms of the protocol. What the service has is the default; a control has less."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """Which mechanisms are on."""

    outbox_row_of_command: bool = True
    """The API saves a command together with its outbox row."""
    late_acks: bool = True
    """The worker acknowledges commands after its commit, and not as it receives them."""
    inbox: bool = True
    """The worker looks up the ids of commands, and saves them in the transaction of the effect."""
    product_lock: bool = True
    """The worker reads the product under a lock that it holds until its commit."""
    outbox_row_of_event: bool = True
    """The worker saves events in the transaction of the decision."""
    dead_letter_before_ack: bool = True
    """The worker acknowledges a failed command once the dead-letter queue has it."""
    publishes_directly: Literal[None, "after its commit", "before its commit"] = "after its commit"
    """When the worker itself publishes its events; None: it leaves that to the relay."""
    worker_marks: Literal["confirmed, in order", "confirmed", "published"] = "confirmed, in order"
    """Which rows a worker that publishes marks.

    In order: it does not mark a row while the outbox has an earlier one of the sku.
    """
    worker_keeps_order: bool = True
    """A worker that publishes leaves an event to the relay while the outbox has an earlier one.

    It looks under the product's lock.
    """
    relay: bool = True
    """A relay runs."""
    relay_leaves: Literal["products", "rows"] = "products"
    """What the relay leaves to a worker that publishes, for as long as the grace period lasts.

    All events of the products, or only the rows of the worker and not the ones after them. No clock
    is reliable, so the grace period is over at any time.
    """
    relay_selects: Literal["pending rows", "rows after a cursor"] = "pending rows"
    relay_marks: Literal["confirmed, in order", "confirmed", "published", "selected"] = (
        "confirmed, in order"
    )
    """Which rows the relay marks.

    In order: a confirmed row is not marked while an earlier one of its sku is unconfirmed.
    """
    resends: bool = False
    """The relay sends pending commands again that the broker has lost.

    Off by default, so that nothing else rests on it.
    """
    subscriber_late_acks: bool = True
    subscriber_inbox: bool = True
    """The subscriber saves the ids of events, and looks them up."""
    effect_in_same_commit: bool = True
    """It does so in the transaction of the effects."""
    resequencer: bool = True
    """The subscriber holds back events that come early."""
    patience: bool = True
    """The subscriber waits for a missing event for longer than any outage lasts."""

    @property
    def shows_open_transactions(self) -> bool:
        """Whether others can tell when a worker decides from when it commits."""
        return (
            self.publishes_directly == "before its commit"
            or not self.product_lock
            or self.relay_selects == "rows after a cursor"
        )
