"""Counts confirmed orders, and publishes `customer.promoted.v1` when a customer has three."""

import json
import os
from collections.abc import Sequence
from functools import partial
from uuid import NAMESPACE_URL, uuid5

import sqlalchemy as sa
import structlog
from amqp.exceptions import MessageNacked
from kombu import Connection, Exchange

from allocation.messaging.cloudevents import Envelope, build, text
from allocation.messaging.connection import connect
from allocation.messaging.database import engine, insert_into
from allocation.messaging.lifecycle import stop_signal
from allocation.messaging.resequencer import Due, Resequencer, tables
from allocation.messaging.subscriber import Subscriber, declare_queue
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics

ENOUGH = 3
QUEUE = "vip.orders"
PROMOTIONS = Exchange("vip.events", type="fanout", durable=True)
log = structlog.get_logger()
metadata = sa.MetaData()
tables(metadata)
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("customer", sa.String, primary_key=True),
    sa.Column("orderid", sa.String, primary_key=True),
)
promotions = sa.Table(  # an outbox: each promotion is published after the commit, and then marked
    "promotions",
    metadata,
    sa.Column("customer", sa.String, primary_key=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("sent", sa.Boolean, nullable=False, index=True, default=False),
)
database = engine(f"sqlite:///{os.environ.get('VIP_DATABASE', 'vip.db')}")


def parse(event: Envelope) -> tuple[str, str] | None:
    """Customer and orderid, if stock is promised to a known customer. Raises Unreadable."""
    if event.type != "allocation.allocated.v1" or event.data.get("customer") is None:
        return None
    return text(event.data, "customer"), text(event.data, "orderid")


def apply(transaction: sa.Connection, due: Sequence[Due]) -> None:
    """Count each order once, and promote its customer with the third one."""
    for customer, orderid in filter(None, (parse(each.event) for each in due)):
        order = insert_into(orders, "sqlite").values(customer=customer, orderid=orderid)
        transaction.execute(order.on_conflict_do_nothing())
        counted = sa.select(orders.c.orderid).where(orders.c.customer == customer).limit(ENOUGH)
        if len(transaction.execute(counted).all()) == ENOUGH:
            row = {"customer": customer, "event": json.dumps(promotion(customer))}
            transaction.execute(insert_into(promotions, "sqlite").on_conflict_do_nothing(), row)


def promotion(customer: str) -> dict[str, object]:
    """The event; its id follows from the customer, so that a repeat can be recognized."""
    return build(
        id=uuid5(NAMESPACE_URL, f"urn:vip:customer.promoted.v1:{customer}"),
        source="vip",
        type="customer.promoted.v1",
        subject=customer,
        data={"customer": customer, "orders": ENOUGH},
    )


def publish(connection: Connection) -> None:
    """Publish what is committed and not marked; after a kill in between, publish it again."""
    with database.begin() as transaction:
        unsent = transaction.execute(sa.select(promotions).where(~promotions.c.sent)).all()
        for customer, event, _ in unsent:
            try:
                connection.Producer().publish(
                    event,
                    exchange=PROMOTIONS.name,
                    content_type="application/cloudevents+json",
                    confirm_timeout=5,
                )
            except MessageNacked:
                log.warning("the queue of a listener is full: promotions wait")
                return
            mark = sa.update(promotions).where(promotions.c.customer == customer)
            transaction.execute(mark.values(sent=True))
            log.info(f"published: {customer!r} is promoted")


def declare(connection: Connection) -> None:
    declare_queue(connection, QUEUE, "allocation.events")
    PROMOTIONS(connection.default_channel).declare()


if __name__ == "__main__":
    metadata.create_all(database)
    url = os.environ.get("VIP_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//")
    vip = Subscriber(
        QUEUE,
        partial(connect, url, confirm=True),
        parse,
        Resequencer(database, metadata, apply, ordered=False),
        SubscriberMetrics("vip"),
        declare=declare,
        publish=publish,
    )
    vip.run(stop_signal())
