"""Hears of confirmed orders, and tells once when a customer has three: `customer.promoted.v1`.

Settings: VIP_BROKER_URL, and VIP_DATABASE, the path of a SQLite file of its own.
"""

import json
import logging
import os
import signal
import sqlite3
import time
from contextlib import suppress
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, uuid5

from amqp.exceptions import MessageNacked
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.message import Message

ENOUGH = 3
BATCH = 100
"""Messages that one transaction takes at most."""

PROMOTIONS = Exchange("vip.events", type="fanout", durable=True)

# Passive: it belongs to Allocation. Whoever only looks needs no right to configure it.
_EVENTS = Exchange("allocation.events", type="fanout", durable=True, passive=True)
_QUORUM = {"x-queue-type": "quorum"}
_DEAD = Exchange("vip.orders.dead", type="fanout", durable=True)
DEAD_LETTERS = Queue("vip.orders.dead", _DEAD, durable=True, queue_arguments=_QUORUM)
ORDERS = Queue(
    "vip.orders",
    _EVENTS,
    durable=True,
    queue_arguments=_QUORUM
    | {
        "x-dead-letter-exchange": _DEAD.name,
        # What kills its reader again and again is set aside too.
        "x-delivery-limit": 20,
        # A rejected message leaves this queue only once the other has it; this overflow is what
        # that strategy asks for. Without a length limit nothing overflows.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    },
)

_TABLES = """
    CREATE TABLE IF NOT EXISTS orders (
        customer TEXT NOT NULL,
        orderid TEXT NOT NULL,
        PRIMARY KEY (customer, orderid)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS promotions (
        customer TEXT PRIMARY KEY,
        event TEXT NOT NULL,
        sent INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX IF NOT EXISTS unsent ON promotions (sent) WHERE NOT sent;
"""

log = logging.getLogger("vip")


def confirmed_order(message: Message) -> tuple[str, str] | None:
    """Customer and orderid, when the message tells of stock promised to a known customer's order.

    Raises ValueError when it is no event, or not what its type promises.
    """
    if message.errors:
        raise ValueError("it can't be unpacked")
    try:
        event = json.loads(message.body)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    match event:
        case {"type": "allocation.allocated.v1", "data": {"orderid": str(orderid), **rest}}:
            customer = rest.get("customer")
        case {"type": str(other)} if other != "allocation.allocated.v1":
            return None
        case _:
            raise ValueError("it is no event of allocation's")
    if customer is None:
        return None
    if not isinstance(customer, str):
        raise ValueError("its customer is no text")
    for text in (customer, orderid):
        text.encode()  # JSON can spell half a character, which nobody can store
    return customer, orderid


def count_order(database: sqlite3.Connection, customer: str, orderid: str) -> None:
    """Note the order, and with the third one the promotion: both in the caller's transaction.

    An order that is noted already changes nothing, whichever event tells of it again.
    """
    database.execute("INSERT OR IGNORE INTO orders VALUES (?, ?)", (customer, orderid))
    query = "SELECT count(*) FROM (SELECT 1 FROM orders WHERE customer = ? LIMIT ?)"
    [orders] = database.execute(query, (customer, ENOUGH)).fetchone()
    if orders == ENOUGH:
        row = (customer, json.dumps(promotion(customer)))
        database.execute("INSERT OR IGNORE INTO promotions (customer, event) VALUES (?, ?)", row)


def promotion(customer: str) -> dict[str, object]:
    """The event, whose id follows from the customer: nobody is promoted under two ids."""
    return {
        "specversion": "1.0",
        "id": str(uuid5(NAMESPACE_URL, f"urn:vip:customer.promoted.v1:{customer}")),
        "source": "vip",
        "type": "customer.promoted.v1",
        "subject": customer,
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": {"customer": customer, "orders": ENOUGH},
    }


class Vip:
    """Consumes until it is asked to stop, connecting again for ever."""

    def __init__(self, broker_url: str, database: sqlite3.Connection) -> None:
        self._broker_url = broker_url
        self._database = database
        self._stopping = False

    def stop(self, *_: object) -> None:
        """Finish the batch in hand, and end; takes a signal's arguments."""
        self._stopping = True

    def run(self) -> None:
        while not self._stopping:
            connection = Connection(
                self._broker_url,
                heartbeat=15,
                connect_timeout=5,
                # A promotion counts as sent once the broker has it.
                transport_options={"confirm_publish": True, "read_timeout": 5, "write_timeout": 5},
            )
            try:
                self._consume(connection)
            except (*connection.connection_errors, *connection.channel_errors) as error:
                log.warning("not consuming, trying again in a second: %s", error or repr(error))
                connection.collect()  # without a goodbye, which may have no answer
                time.sleep(1)  # so that a broker that is away is not asked without end
            finally:
                connection.release()

    def _consume(self, connection: Connection) -> None:
        channel = connection.channel()
        DEAD_LETTERS(channel).declare()
        ORDERS(channel).declare()
        PROMOTIONS(channel).declare()
        producer = Producer(channel, PROMOTIONS, auto_declare=False)
        # Only collected where they come in: that may be while a promotion waits for its confirm.
        arrived: list[Message] = []
        with Consumer(
            channel,
            [ORDERS],
            on_message=arrived.append,
            on_decode_error=lambda message, _: arrived.append(message),
            prefetch_count=BATCH,
            auto_declare=False,
        ):
            log.info("ready: consuming %s", ORDERS.name)
            while not self._stopping:
                # First of all what an earlier life has committed and not sent.
                self._send_promotions(producer)
                with suppress(TimeoutError):
                    connection.drain_events(timeout=1)
                    while len(arrived) < BATCH:
                        connection.drain_events(timeout=0.01)
                batch = arrived.copy()
                arrived.clear()
                self._take(batch)
                connection.heartbeat_check()

    def _take(self, batch: list[Message]) -> None:
        """Count the orders of all by one commit, then acknowledge; reject what nobody can read."""
        read = []
        with self._database:
            for message in batch:
                try:
                    order = confirmed_order(message)
                except ValueError as problem:
                    log.warning("a message goes to %s: %s", DEAD_LETTERS.name, problem)
                    message.reject()
                    continue
                read.append(message)
                if order is not None:
                    count_order(self._database, *order)
        for message in read:
            message.ack()

    def _send_promotions(self, producer: Producer) -> None:
        """Publish what is committed and not marked; after a kill in between, the same again."""
        query = "SELECT customer, event FROM promotions WHERE NOT sent"
        for customer, event in self._database.execute(query).fetchall():
            try:
                # Not mandatory: that nobody listens to these yet is no fault, as with any fanout.
                producer.publish(
                    event,
                    routing_key="",
                    content_type="application/cloudevents+json",
                    content_encoding="utf-8",
                    delivery_mode="persistent",
                    message_id=json.loads(event)["id"],
                    confirm_timeout=5,
                )
            except MessageNacked:
                log.warning("the queue of a listener is full: promotions wait")
                return
            mark = "UPDATE promotions SET sent = 1 WHERE customer = ?"
            with self._database:
                self._database.execute(mark, (customer,))
            log.info("told: %r is promoted", customer)


def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # An error of the file ends the process: nothing is acknowledged, and the next start goes on.
    database = sqlite3.connect(os.environ.get("VIP_DATABASE", "vip.db"))
    database.executescript(_TABLES)
    vip = Vip(os.environ.get("VIP_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//"), database)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, vip.stop)
    vip.run()
    database.close()


if __name__ == "__main__":
    main()
