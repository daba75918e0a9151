"""A process that publishes at a steady pace and notes when: `python -m tests.bench.pacing URL`.

It waits for no answer before the next message is due: what is slow meets the same pace.
"""

import sys
import time
from contextlib import suppress

import amqp
from kombu import Connection

from tests.bench.helper import serve
from tests.bench.queued import allocate_messages


def main(broker: str) -> None:
    connection = Connection(broker)
    channel = connection.channel()
    channel.confirm_select()
    confirmed: set[int] = set()
    channel.events["basic_ack"].add(lambda tag, multiple: confirmed.add(tag))
    messages: dict[str, amqp.Message] = {}

    def prepare(prefix: str, number: int, skus: list[str]) -> int:
        messages.clear()
        messages.update(allocate_messages(prefix, number, skus))
        return len(messages)

    def run(rate: float, exchange: str, routing_key: str) -> dict[str, float]:
        """The moment of each order's publishing."""
        sent = {}
        begun = time.perf_counter()
        for position, (orderid, message) in enumerate(messages.items()):
            due = begun + position / rate
            while (wait := due - time.perf_counter()) > 0:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=max(wait, 0.0001))
            sent[orderid] = time.time()
            channel.basic_publish(
                message, exchange=exchange, routing_key=routing_key, mandatory=True
            )
        return sent

    serve(prepare=prepare, run=run)


if __name__ == "__main__":
    main(sys.argv[1])
