"""What came from the queue and is not settled yet: read, put into batches, acknowledged."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kombu.message import Message

from allocation.messaging.cloudevents import Envelope, Unreadable, read
from allocation.messaging.dead_letters import LARGEST_BODY

LIMIT = 200
"""Events of one batch."""
SUSPECT = 2
"""Whoever died so often over an event, or near it, takes it alone: the others get through."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event, and the message that brought it."""

    message: Message
    event: Envelope

    @property
    def replayed(self) -> bool:
        """Sent again by `allocation replay`."""
        return bool(self._header("x-replay"))

    @property
    def oldest(self) -> bool:
        """The first of what `allocation replay` sends of the sku."""
        return self._header("x-replay") == "first"

    @property
    def suspect(self) -> bool:
        """It came back from consumers again and again."""
        times = self._header("x-delivery-count")
        return isinstance(times, int) and times >= SUSPECT

    def _header(self, name: str) -> object:
        return (self.message.headers or {}).get(name)


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A message that is no event."""

    message: Message
    problem: Unreadable


Batch = Sequence[Delivery]


class Hand:
    """What one channel delivered, in the order in which it came.

    Whoever takes something settles it before the next, or puts it back.
    """

    def __init__(self, parse: Callable[[Envelope], object]) -> None:
        """`parse` raises Unreadable at an event that must not be noted as received."""
        self._parse = parse
        self._arrived: deque[Delivery | Spoilt] = deque()
        self._halves: deque[Batch] = deque()

    def receive(self, message: Message, undecodable: Exception | None = None) -> None:
        """Read a message, and lay it behind the others."""
        try:
            if undecodable is not None:
                raise Unreadable(f"the message can't be decoded: {undecodable}")
            if len(message.body or b"") > LARGEST_BODY:
                raise Unreadable(
                    f"the body has {len(message.body)} bytes, more than {LARGEST_BODY}"
                )
            event = read(message.body, message.content_type)
            self._parse(event)
        except Unreadable as problem:
            self._arrived.append(Spoilt(message, problem))
        else:
            self._arrived.append(Delivery(message, event))

    @property
    def empty(self) -> bool:
        return not self._arrived and not self._halves

    @property
    def full(self) -> bool:
        """There is enough for a batch."""
        return len(self._arrived) >= LIMIT or bool(self._halves)

    def take(self) -> Batch | Spoilt:
        """The next events, as many as may stand together; or the next message that is none."""
        if self._halves:
            return self._halves.popleft()
        first = self._arrived.popleft()
        if isinstance(first, Spoilt):
            return first
        batch = [first]
        while self._arrived and len(batch) < LIMIT and not first.suspect:
            following = self._arrived[0]
            if isinstance(following, Spoilt) or following.suspect:
                break
            batch.append(following)
            self._arrived.popleft()
        return batch

    def put_back_in_halves(self, batch: Batch) -> None:
        """One of them fails: in the end it stands alone, and the others are taken without it."""
        middle = len(batch) // 2
        self._halves.extendleft([batch[middle:], batch[:middle]])


def acknowledge(batch: Batch) -> None:
    """Settle a batch that was taken; all that came before it on its channel is settled already."""
    last = batch[-1].message
    if isinstance(last.delivery_tag, int):  # RabbitMQ counts, and takes one word for all up to it
        last.ack(multiple=True)
        return
    for delivery in batch:
        delivery.message.ack()
