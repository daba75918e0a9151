"""Publishing alone, as fast as confirms allow: all messages of a batch, then all their confirms."""

import time
from collections.abc import Sequence

import amqp
from kombu import Connection


class Pipeline:
    """A channel on which the broker confirms; raises when it turns a message down."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._refused)
        self._channel.events["basic_return"].add(self._refused)
        self._sent = 0
        self._open: set[int] = set()

    def publish(
        self, messages: Sequence[amqp.Message], *, exchange: str, routing_key: str, at_once: int
    ) -> list[float]:
        """Persistent and mandatory; the moment at which each batch was confirmed."""
        moments = []
        for begin in range(0, len(messages), at_once):
            for message in messages[begin : begin + at_once]:
                self._sent += 1
                self._open.add(self._sent)
                self._channel.basic_publish(
                    message, exchange=exchange, routing_key=routing_key, mandatory=True
                )
            while self._open:
                self._connection.drain_events(timeout=30)
            moments.append(time.time())
        return moments

    def _acked(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._open = {known for known in self._open if known > tag}
        else:
            self._open.discard(tag)

    def _refused(self, *what: object) -> None:
        raise RuntimeError(f"the broker did not take a message: {what}")
