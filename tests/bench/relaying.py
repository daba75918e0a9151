"""How fast the relay empties an outbox, beside pipelined publishing of the same messages."""

import json

import amqp
from kombu import Connection

from allocation.messaging import outbox_relay
from tests.bench import committed
from tests.bench.bench import Bench
from tests.bench.deployment import SUBSCRIBERS, Deployment
from tests.bench.figures import Figure, Row
from tests.bench.pipeline import Pipeline
from tests.bench.servers import query
from tests.waiting import eventually

SKUS = 1000
EACH = 20
"""Events of each sku that wait in the outbox."""
EXCHANGE = "allocation.events"
BATCH: int = getattr(outbox_relay, "BATCH", 200)
"""As many messages as the relay sends before it waits for their confirms."""
ROW = Row(
    title="relay: outbox to two queues, marked as sent",
    unit="/s",
    limit=f"publishing alone, {BATCH} confirms under way",
    at_least=0.5,
)

_PRODUCTS = """
    INSERT INTO products (sku, version, sequence)
    SELECT %(prefix)s || n, %(each)s + 1, %(each)s + 1 FROM generate_series(1, %(skus)s) AS n"""
_BATCHES = """
    INSERT INTO batches (batchref, sku, purchased, allocated)
    SELECT sku || '-batch', sku, 1000, %(each)s FROM products WHERE sku LIKE %(like)s"""
_CREATED = """
    INSERT INTO outbox (id, kind, name, sku, sequence, body, correlation_id, created_at, sent_at)
    SELECT gen_random_uuid(), 'event', 'allocation.batch_created.v1', sku, 1, '{}',
           gen_random_uuid(), now(), now()
    FROM products WHERE sku LIKE %(like)s"""
_LINES = """
    INSERT INTO allocations (orderid, sku, qty, age, batchref, promised_at, told)
    SELECT sku || '-order-' || k, sku, 1, k + 1, sku || '-batch', k + 1, false
    FROM generate_series(1, %(each)s) AS k, products WHERE sku LIKE %(like)s"""
_EVENTS = """
    INSERT INTO outbox
        (id, kind, name, sku, sequence, body, correlation_id, causation_id, created_at)
    SELECT id, 'event', 'allocation.allocated.v1', sku, promised_at,
           json_build_object(
               'specversion', '1.0', 'id', id, 'source', 'allocation',
               'type', 'allocation.allocated.v1', 'subject', sku, 'time', now(),
               'datacontenttype', 'application/json', 'sequence', promised_at,
               'causationid', cause, 'causationtype', 'allocation.allocate',
               'correlationid', cause,
               'data', json_build_object(
                   'orderid', orderid, 'sku', sku, 'qty', qty, 'batchref', batchref)),
           cause, cause, now()
    FROM (SELECT gen_random_uuid() AS id, gen_random_uuid() AS cause, *
          FROM allocations WHERE sku LIKE %(like)s ORDER BY promised_at, sku) AS line"""


class Relaying:
    """Each round fills the outbox with events of new products."""

    rows = (ROW,)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._each = max(2, round(EACH * bench.scale))
        self._rates: list[float] = []
        self._limits: list[float] = []

    def prepare(self) -> None:
        self._deployment = Deployment(self._bench.servers, "relay")

    def round(self, number: int) -> None:
        show, deployment = self._bench.show, self._deployment
        prefix = f"R{number}-"
        show.step(f"relay, round {number}: filling the outbox")
        self._fill(prefix)
        show.step(f"relay, round {number}: the limit")
        limit = self._publish(prefix)
        show.step(f"relay, round {number}: the service")
        query(deployment.database, "CHECKPOINT")
        deployment.start("relay")
        deployment.wait_until_sent(within=60)
        rate = committed.sent(deployment.database, prefix, SKUS * self._each).rate
        deployment.stop("relay")
        self._expect_in_queues(SKUS * self._each)
        self._limits.append(limit)
        self._rates.append(rate)
        show.say(f"relay, round {number}: {rate:,.0f}/s, the limit {limit:,.0f}/s")

    def figures(self) -> list[Figure]:
        self._bench.show.step("relay: proving the books")
        self._deployment.check()
        return [Figure(ROW, self._rates, self._limits)]

    def _fill(self, prefix: str) -> None:
        values = {"prefix": prefix, "like": f"{prefix}%", "skus": SKUS, "each": self._each}
        for statement in (_PRODUCTS, _BATCHES, _CREATED, _LINES, _EVENTS):
            query(self._deployment.database, statement, values)
        query(self._deployment.database, "ANALYZE")

    def _publish(self, prefix: str) -> float:
        rows = query(
            self._deployment.database,
            "SELECT id, body FROM outbox WHERE sku LIKE %s AND sent_at IS NULL ORDER BY position",
            (f"{prefix}%",),
        )
        messages = [
            amqp.Message(
                json.dumps(body),
                content_type="application/cloudevents+json",
                content_encoding="utf-8",
                delivery_mode=2,
                message_id=str(event_id),
            )
            for event_id, body in rows
        ]
        with Connection(self._deployment.broker) as connection:
            moments = Pipeline(connection).publish(
                messages, exchange=EXCHANGE, routing_key="", at_once=BATCH
            )
        self._expect_in_queues(len(messages))
        return (len(messages) - BATCH) / (moments[-1] - moments[0])

    def _expect_in_queues(self, number: int) -> None:
        for queue in SUBSCRIBERS:
            eventually(
                lambda: self._deployment.depth(queue) == number,  # noqa: B023 - asked at once
                what=f"{number} messages in {queue}",
            )
        self._deployment.purge(*SUBSCRIBERS)
