"""Another service: it knows the broker's address and the names on the wire, and nothing of ours.

Usage: demo_client.py BROKER_URL TRANSPORT TASK JSON, where TRANSPORT is "-" for RabbitMQ.
"""

import json
import sys

from celery import Celery


def main(broker_url: str, transport: str, task: str, body: str) -> None:
    """Send the task to the exchange that the allocation workers listen to."""
    client = Celery(broker=broker_url)
    if transport != "-":
        client.conf.broker_transport = transport
    client.send_task(
        task,
        kwargs=json.loads(body),
        exchange="allocation.commands",
        routing_key="allocation.commands",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
