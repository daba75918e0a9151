"""How fast rows were committed, in the database's own view: when each transaction ended."""

from tests.bench.servers import query
from tests.waiting import eventually

_ALLOCATED = """
    SELECT pg_xact_commit_timestamp(xmin) AS at FROM allocations
    WHERE orderid LIKE %(prefix)s AND batchref IS NOT NULL"""
_PICKED = """
    SELECT pg_xact_commit_timestamp(xmin) AS at FROM picks
    WHERE orderid LIKE %(prefix)s AND status = 'open'"""
_SENT = """
    SELECT pg_xact_commit_timestamp(xmin) AS at FROM outbox
    WHERE sku LIKE %(prefix)s AND sent_at IS NOT NULL AND sequence > 1"""
_SPAN = """
    WITH rows AS ({rows}), ends AS (SELECT min(at) AS first, max(at) AS last FROM rows)
    SELECT count(*), count(*) FILTER (WHERE at = first),
           extract(epoch FROM first)::float, extract(epoch FROM last)::float
    FROM rows, ends GROUP BY first, last"""


class Incomplete(Exception):
    """Not everything that was asked for was done."""


class Committed:
    """`number` rows that were committed between `first` and `last`, `in_first` of them first."""

    def __init__(self, database: str, rows: str, prefix: str, expected: int) -> None:
        """Raises Incomplete when it is another number than was expected."""
        found = query(database, _SPAN.format(rows=rows), {"prefix": f"{prefix}%"})
        self.number, self.in_first, self.first, self.last = found[0] if found else (0, 0, 0.0, 0.0)
        if self.number != expected:
            raise Incomplete(f"{expected} were sent, and {self.number} succeeded")

    @property
    def rate(self) -> float:
        """Rows a second, from the end of the first transaction to the end of the last one."""
        return (self.number - self.in_first) / (self.last - self.first)


def allocated(database: str, prefix: str, expected: int) -> Committed:
    """Lines that were promised stock, of the orders whose names begin so."""
    return Committed(database, _ALLOCATED, prefix, expected)


def picked(database: str, prefix: str, expected: int) -> Committed:
    """Picks that the warehouse opened for these orders."""
    return Committed(database, _PICKED, prefix, expected)


def sent(database: str, prefix: str, expected: int) -> Committed:
    """Rows of the outbox that the relay marked, of such skus, but for each first event."""
    return Committed(database, _SENT, prefix, expected)


def wait_for(database: str, prefix: str, expected: int, within: float = 20.0) -> None:
    """Wait until that many lines of these orders were promised stock."""
    counted = "SELECT count(*) FROM allocations WHERE orderid LIKE %s AND batchref IS NOT NULL"
    eventually(
        lambda: query(database, counted, (f"{prefix}%",)) == [(expected,)],
        within=within,
        what=f"{expected} lines of {prefix}",
    )
