"""What happens to the message of a command that failed: dead-letter it, or have it redelivered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from celery.exceptions import Reject
from kombu.message import Message

from allocation.adapters.spool.transport import Channel as SpoolChannel
from allocation.contract.codec import UnknownFields
from allocation.messaging.dead_letters import Details


@dataclass(frozen=True)
class Failure:
    """The exception that a task ended with, and its traceback as text."""

    exception: object
    traceback: str = ""


class Delivery(Protocol):
    """A delivered command that is settled in one of several ways."""

    acknowledged: bool
    """Whether it is settled already, in whatever way."""
    message: Message
    request_dict: Mapping[str, Any]

    def acknowledge(self) -> None: ...

    def reject_message(self, requeue: bool) -> None:
        """Reject it: the broker redelivers it if `requeue`, else dead-letters it by itself."""


class Failures:
    """Dead-letters commands with the reason; the broker alone would not give one.

    A command that was revoked or has expired is dead-lettered too, so that no accepted command is
    dropped.
    """

    def __init__(self, dead_letter: Callable[[Message, Details], bool]) -> None:
        """`dead_letter` returns False unless the broker has the dead letter."""
        self._dead_letter = dead_letter

    def rejected(self, delivery: Delivery, failure: Failure, requeue: bool) -> None:
        """Settle a command whose task failed."""
        if requeue and isinstance(failure.exception, Reject):
            _give_back(delivery)
        elif (
            requeue
            or delivery.acknowledged
            or not self._dead_letter(delivery.message, details_of(failure, delivery.request_dict))
        ):
            delivery.reject_message(requeue)
        else:
            delivery.acknowledge()

    def revoked(self, delivery: Delivery, reason: str) -> None:
        """Settle a command that is not decided: `reason` is revoked, expired or terminated."""
        error = f"the command was {reason} before it was decided"
        if delivery.acknowledged:
            return
        if not self._dead_letter(delivery.message, {"reason": reason, "error": error}):
            delivery.reject_message(requeue=False)


def _give_back(delivery: Delivery) -> None:
    """Requeue a command that can't be decided now; the embedded broker counts no delivery."""
    channel = delivery.message.channel
    if isinstance(channel, SpoolChannel) and not delivery.acknowledged:
        channel.qos.give_back(delivery.message.delivery_tag)
        delivery.acknowledged = True
    else:
        delivery.reject_message(requeue=True)


def details_of(failure: Failure, request: Mapping[str, Any]) -> Details:
    """What the headers of the dead letter tell."""
    now = datetime.now(UTC).isoformat()
    cause = failure.exception
    return {
        "reason": "unknown field" if isinstance(cause, UnknownFields) else "failed",
        "error": f"{type(cause).__name__}: {cause}".partition("\n")[0][:1000],
        "traceback": failure.traceback[-4000:],
        "attempts": request.get("retries", 0) + 1,
        "first": request.get("first_failed_at") or now,
        "last": now,
    }
