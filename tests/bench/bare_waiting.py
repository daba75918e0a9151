"""The limit of waiting: a route that publishes, and waits for a consumer that commits one row.

The consumer, `python -m tests.bench.bare_waiting BROKER DSN`, answers by RabbitMQ's direct
reply-to. The queue is a quorum queue and its messages are persistent; nobody waits for a confirm.
"""

import json
import os
import sys
import threading
from typing import Any

import amqp
import psycopg2
from flask import Flask, jsonify, request
from kombu import Connection

from tests.bench.bare_hops import FIRST, Hop

_REPLIES = "amq.rabbitmq.reply-to"
_INSERT = "INSERT INTO bare VALUES (%s, %s)"


class Asking:
    """A connection that publishes a request and waits for its reply, one at a time."""

    def __init__(self, broker: str) -> None:
        self._connection = Connection(broker)
        self._channel = self._connection.channel()
        self._replies: list[Any] = []
        self._channel.basic_consume(_REPLIES, no_ack=True, callback=self._replies.append)

    def ask(self, body: str) -> str:
        message = amqp.Message(body, delivery_mode=2, reply_to=_REPLIES)
        self._channel.basic_publish(message, exchange="", routing_key=FIRST)
        while not self._replies:
            self._connection.drain_events(timeout=60)
        return str(self._replies.pop().body)


def create_app() -> Flask:
    app = Flask(__name__)
    own = threading.local()

    @app.post("/v1/allocations")
    def allocate() -> Any:
        line = request.get_json()
        if not hasattr(own, "asking"):
            own.asking = Asking(os.environ["BARE_BROKER"])
        status = own.asking.ask(json.dumps(line))
        response = jsonify({**line, "status": status})
        response.headers["Preference-Applied"] = request.headers["Prefer"]
        return response, 201

    return app


def answer(broker: str, dsn: str) -> None:
    """Consume, commit, reply."""
    database = psycopg2.connect(dsn)
    cursor = database.cursor()
    hop = Hop(broker, FIRST)

    def take(message: Any) -> None:
        cursor.execute(_INSERT, (json.loads(message.body)["orderid"], message.body))
        database.commit()
        reply = amqp.Message("allocated")
        hop.channel.basic_publish(reply, exchange="", routing_key=message.properties["reply_to"])
        hop.acknowledge(message.delivery_tag)

    hop.consume(take)
    while True:
        hop.connection.drain_events()


if __name__ == "__main__":
    answer(*sys.argv[1:])
