"""Takes every delivery of a queue first; passes it on late, in another order, more than once."""

import random
import threading
import time
from typing import Any

from kombu import Connection, Producer, Queue
from kombu.message import Message


class Middleman(threading.Thread):
    """Stands between an exchange and one of its queues from its start until it is closed."""

    def __init__(
        self,
        broker_url: str,
        queue: Queue,
        *,
        copies: int = 1,
        longest_delay: float = 0.0,
        chance: random.Random,
    ) -> None:
        """`queue` is declared already, and bound to its exchange."""
        super().__init__(name=f"middleman of {queue.name}", daemon=True)
        self.passed = 0
        self._url = broker_url
        self._queue = queue
        self._copies = copies
        self._delay = longest_delay
        self._chance = chance
        self._closing = threading.Event()
        with Connection(broker_url) as connection, connection.channel() as channel:
            detour = self._detour(channel)
            detour.declare()
            channel.queue_unbind(queue.name, queue.exchange.name, queue.routing_key)

    def run(self) -> None:
        with Connection(self._url, transport_options={"confirm_publish": True}) as connection:
            channel = connection.channel()
            producer = Producer(connection.channel())
            detour = self._detour(channel)
            kept: list[tuple[float, Message]] = []
            while kept or not self._closing.is_set():
                message = detour.get(accept=None)
                if message is not None:
                    for _ in range(self._copies):
                        due = time.monotonic() + self._chance.random() * self._delay
                        kept.append((due, message))
                kept.sort(key=lambda pair: pair[0])
                while kept and kept[0][0] <= time.monotonic():
                    self._pass_on(producer, kept.pop(0)[1])
                if message is None:
                    time.sleep(0.005)  # nothing is due and nothing is there

    def close(self) -> None:
        """Bind the queue again, and end once everything is passed on."""
        with Connection(self._url) as connection, connection.channel() as channel:
            self._queue(channel).declare()
            exchange, key = self._queue.exchange.name, self._queue.routing_key
            channel.queue_unbind(f"detour.{self._queue.name}", exchange, key)
            detour = self._detour(channel)
            while channel.queue_declare(detour.name, passive=True).message_count:
                time.sleep(0.05)  # the thread takes what is left
        self._closing.set()
        self.join()

    def _detour(self, channel: Any) -> Any:
        name = f"detour.{self._queue.name}"
        key = self._queue.routing_key
        return Queue(name, self._queue.exchange, routing_key=key, durable=True)(channel)

    def _pass_on(self, producer: Producer, message: Message) -> None:
        kept = ("correlation_id", "message_id", "reply_to", "delivery_mode")
        producer.publish(
            message.body,
            exchange="",
            routing_key=self._queue.name,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=dict(message.headers),
            mandatory=True,
            **{name: message.properties[name] for name in kept if name in message.properties},
        )
        self.passed += 1
        if not message.acknowledged:
            message.ack()
