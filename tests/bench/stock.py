"""Products with plenty on the shelf, as if `create_batch` had made them: the proofs hold."""

from tests.bench.servers import query

HOT = "HOT"
PIECES = 1_000_000_000

_PRODUCTS = "INSERT INTO products (sku, version, sequence) SELECT unnest(%(skus)s), 1, 1"
_BATCHES = """
    INSERT INTO batches (batchref, sku, purchased, allocated)
    SELECT sku || '-batch', sku, %(pieces)s, 0 FROM unnest(%(skus)s) AS sku"""
_EVENTS = """
    INSERT INTO outbox (id, kind, name, sku, sequence, body, correlation_id, created_at, sent_at)
    SELECT gen_random_uuid(), 'event', 'allocation.batch_created.v1', sku, 1,
           json_build_object('type', 'allocation.batch_created.v1', 'subject', sku, 'sequence', 1),
           gen_random_uuid(), now(), now()
    FROM unnest(%(skus)s) AS sku"""


def skus(number: int) -> list[str]:
    return [f"SKU-{position:04}" for position in range(number)]


def put_on_the_shelf(database: str, names: list[str]) -> None:
    """One batch for each sku; its event counts as sent long ago."""
    for statement in (_PRODUCTS, _BATCHES, _EVENTS):
        query(database, statement, {"skus": names, "pieces": PIECES})
    query(database, "ANALYZE")


def expect_the_second_event(database: str, names: list[str]) -> None:
    """Let a subscriber expect each sku's second event: the first was never told to it."""
    query(database, "INSERT INTO progress SELECT unnest(%(skus)s), 2", {"skus": names})
