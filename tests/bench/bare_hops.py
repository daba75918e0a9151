"""The limit of latency: publish, consume, commit, publish, consume, and nothing else.

Two processes, `python -m tests.bench.bare_hops ROLE BROKER DSN`: the first commits one row for each
message and publishes one, the last notes when that, or an event of the service, came. Quorum
queues, persistent messages; each is acknowledged when its successor is confirmed, and nobody waits
for a confirm.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import amqp
import psycopg2
from kombu import Connection

from tests.bench.helper import serve

FIRST, LAST = "bare.first", "bare.last"
PREFETCH = 100
TABLE = "CREATE TABLE bare (id text PRIMARY KEY, body text NOT NULL)"
_INSERT = "INSERT INTO bare VALUES (%s, %s)"
_BODY = json.dumps({"specversion": "1.0", "data": {"orderid": "ORDER", "rest": "x" * 480}})
"""As long as an event."""


def declare(broker: str) -> None:
    with Connection(broker) as connection, connection.channel() as channel:
        for queue in (FIRST, LAST):
            channel.queue_declare(
                queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
            )


class Hop:
    """Consumes one queue on one channel."""

    def __init__(self, broker: str, queue: str) -> None:
        self.connection = Connection(broker)
        self.channel = self.connection.channel()
        self.channel.confirm_select()
        self.channel.basic_qos(0, PREFETCH, False)
        self.done = 0
        self._queue = queue

    def consume(self, take: Callable[[Any], None]) -> None:
        self.channel.basic_consume(self._queue, callback=take)

    def until(self, number: int) -> None:
        """Until that many more are acknowledged."""
        self.done = 0
        while self.done < number:
            self.connection.drain_events(timeout=60)

    def acknowledge(self, delivery_tag: int) -> None:
        self.channel.basic_ack(delivery_tag)
        self.done += 1


def first(broker: str, dsn: str) -> None:
    """Consume, commit, publish."""
    database = psycopg2.connect(dsn)
    cursor = database.cursor()
    hop = Hop(broker, FIRST)
    under_way: dict[int, int] = {}
    sent = 0

    def take(message: Any) -> None:
        nonlocal sent
        orderid = json.loads(message.body)[1]["orderid"]
        body = _BODY.replace("ORDER", orderid)
        cursor.execute(_INSERT, (orderid, body))
        database.commit()
        sent += 1
        under_way[sent] = message.delivery_tag
        following = amqp.Message(body, delivery_mode=2, message_id=orderid)
        hop.channel.basic_publish(following, exchange="", routing_key=LAST, mandatory=True)

    def confirmed(tag: int, multiple: bool) -> None:
        for known in [each for each in under_way if each == tag or (multiple and each < tag)]:
            hop.acknowledge(under_way.pop(known))

    def run(number: int) -> int:
        hop.until(number)
        return number

    hop.channel.events["basic_ack"].add(confirmed)
    hop.consume(take)
    serve(run=run)


def last(broker: str) -> None:
    """Consume; the moments at which the messages came."""
    hop = Hop(broker, LAST)
    came: dict[str, float] = {}

    def take(message: Any) -> None:
        now = time.time()
        came[json.loads(message.body)["data"]["orderid"]] = now
        hop.acknowledge(message.delivery_tag)

    def run(number: int) -> dict[str, float]:
        came.clear()
        hop.until(number)
        return came

    hop.consume(take)
    serve(run=run)


if __name__ == "__main__":
    if sys.argv[1] == "first":
        first(*sys.argv[2:])
    else:
        last(sys.argv[2])
