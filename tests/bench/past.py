"""Databases with a past, by SQL alone: as the service itself would have left them, then pruned.

Of what was told only each product's newest event is kept, as `allocation prune` does; the proofs
hold on every one of them.
"""

from tests.bench.servers import query
from tests.bench.stock import PIECES

SKU = "LAMP"
SHELF = "shelf"

_PRODUCT = "INSERT INTO products (sku, version, sequence) VALUES (%(sku)s, %(past)s, %(past)s)"
_BATCH = """
    INSERT INTO batches (batchref, sku, purchased, allocated)
    VALUES (%(batchref)s, %(sku)s, %(purchased)s, %(allocated)s)"""
_PROMISED = """
    INSERT INTO allocations (orderid, sku, qty, age, batchref, promised_at, told)
    SELECT %(sku)s || '-' || n, %(sku)s, 1, n, %(batchref)s, n, false
    FROM generate_series(1, %(lines)s) AS n"""
_SHIP = """
    INSERT INTO batches (batchref, sku, purchased, allocated, eta)
    VALUES ('ship', %(sku)s, %(purchased)s, %(lines)s, '2999-01-01')"""
_PROMISED_A_SHIP = """
    INSERT INTO allocations (orderid, sku, qty, age, batchref, promised_at, eta, told)
    SELECT %(sku)s || '-' || n, %(sku)s, 1, n, 'ship', n, '2999-01-01', false
    FROM generate_series(1, %(lines)s) AS n"""
_LOOK_AT_THE_SHIP = """
    INSERT INTO outbox (id, kind, name, body, correlation_id, created_at, sent_at, due_at)
    SELECT gen_random_uuid(), 'command', 'allocation.mark_overdue',
           json_build_object('batchref', 'ship', 'eta', '2999-01-01'), gen_random_uuid(),
           now(), now(), '2999-01-02'"""
_WAITING = """
    INSERT INTO allocations (orderid, sku, qty, age, told)
    SELECT 'waiting-' || n, %(sku)s, %(qty)s, n, true FROM generate_series(1, %(lines)s) AS n"""
_EXHAUSTED = """
    INSERT INTO batches (batchref, sku, purchased, allocated)
    SELECT 'exhausted-' || n, %(sku)s, 1, 1 FROM generate_series(1, %(batches)s) AS n"""
_IN_EXHAUSTED = """
    INSERT INTO allocations (orderid, sku, qty, age, batchref, promised_at, told)
    SELECT 'past-' || n, %(sku)s, 1, n, 'exhausted-' || n, n, false
    FROM generate_series(1, %(batches)s) AS n"""
_NEWEST_EVENT = """
    INSERT INTO outbox (id, kind, name, sku, sequence, body, correlation_id, created_at, sent_at)
    SELECT gen_random_uuid(), 'event', 'allocation.batch_quantity_changed.v1', sku, sequence,
           json_build_object('subject', sku, 'sequence', sequence), gen_random_uuid(), now(), now()
    FROM products"""


def past_allocations(database: str, lines: int) -> None:
    """One batch, which promised that many lines one piece each, and has plenty left."""
    _run(database, _PRODUCT, past=lines + 1)
    _batch(database, "shelf", PIECES, lines)
    _run(database, _PROMISED, batchref="shelf", lines=lines)
    finish(database)


def waiting(database: str, lines: int) -> None:
    """That many lines wait, each for more than there is; a small line still finds its stock."""
    _run(database, _PRODUCT, past=lines + 1)
    _batch(database, "shelf", PIECES, 0)
    _run(database, _WAITING, qty=PIECES + 1, lines=lines)
    finish(database)


def promised_a_ship(database: str, lines: int) -> None:
    """A ship with plenty, which promised that many lines one piece each, and an empty shelf."""
    _run(database, _PRODUCT, past=lines + 1)
    _batch(database, SHELF, 0, 0)
    _run(database, _SHIP, purchased=PIECES, lines=lines)
    _run(database, _PROMISED_A_SHIP, lines=lines)
    _run(database, _LOOK_AT_THE_SHIP)
    finish(database)


def exhausted_batches(database: str, batches: int) -> None:
    """That many batches, each promised whole to one line, and one with plenty."""
    _run(database, _PRODUCT, past=batches + 1)
    _run(database, _EXHAUSTED, batches=batches)
    _run(database, _IN_EXHAUSTED, batches=batches)
    _batch(database, "shelf", PIECES, 0)
    finish(database)


def full_batch(database: str, sku: str, lines: int) -> None:
    """A batch `full-SKU` promised whole to that many lines, and one that would take them all."""
    _run(database, _PRODUCT, sku=sku, past=lines + 1)
    _batch(database, f"full-{sku}", lines, lines, sku)
    _batch(database, f"other-{sku}", PIECES, 0, sku)
    _run(database, _PROMISED, sku=sku, batchref=f"full-{sku}", lines=lines)


def finish(database: str) -> None:
    """The newest events, and what the planner needs to know."""
    query(database, _NEWEST_EVENT)
    query(database, "VACUUM ANALYZE")
    query(database, "CHECKPOINT")


def _batch(database: str, batchref: str, purchased: int, allocated: int, sku: str = SKU) -> None:
    _run(database, _BATCH, sku=sku, batchref=batchref, purchased=purchased, allocated=allocated)


def _run(database: str, statement: str, **values: object) -> None:
    query(database, statement, {"sku": SKU, **values})
