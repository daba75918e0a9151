"""The proof of the books: each promise as one SQL statement that finds what breaks it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Select, Table, and_, func, literal, or_, select
from sqlalchemy.orm import aliased

from allocation.adapters.database import is_postgresql
from allocation.adapters.tables import allocations, batches, commands, outbox, products


@dataclass(frozen=True, slots=True)
class Proof:
    """One promise: `examined` things were looked at; `broken` names the first few that break it."""

    promise: str
    examined: int
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.broken


def prove(engine: Engine, most: int = 10) -> Iterator[Proof]:
    """Every proof in turn, on one snapshot of the database, so a live system can be checked.

    At most `most` breaches are named per proof.
    """
    options = {"isolation_level": "REPEATABLE READ"} if is_postgresql(engine) else {}
    with engine.connect().execution_options(**options) as connection:
        for promise, table, statement in PROOFS:
            examined = connection.scalar(select(func.count()).select_from(table)) or 0
            found = connection.execute(statement().limit(most)).scalars().all()
            yield Proof(promise, examined, tuple(str(row) for row in found))


def counts(connection: Connection) -> dict[str, int]:
    """How many commands there are by status, and how many rows of the outbox wait to be sent."""
    by_status = select(commands.c.status, func.count()).group_by(commands.c.status)
    found = dict.fromkeys(("pending", "succeeded", "rejected", "failed"), 0)
    found |= dict(connection.execute(by_status).tuples().all())
    unsent = select(func.count()).select_from(outbox).where(outbox.c.sent_at.is_(None))
    return found | {"unsent": connection.scalar(unsent) or 0}


def _batch_counters() -> Select[tuple[str]]:
    """Batches whose counter is not the sum of their lines, or leaves its bounds."""
    held = (
        select(allocations.c.batchref, func.sum(allocations.c.qty).label("qty"))
        .where(allocations.c.batchref.is_not(None))
        .group_by(allocations.c.batchref)
        .subquery()
    )
    return (
        select(batches.c.batchref)
        .outerjoin(held, held.c.batchref == batches.c.batchref)
        .where(
            or_(
                batches.c.allocated != func.coalesce(held.c.qty, 0),
                batches.c.allocated < 0,
                batches.c.allocated > batches.c.purchased,
            )
        )
    )


def _lines_on_batches_of_their_sku() -> Select[tuple[str]]:
    """Lines that hold stock of another product."""
    return (
        select(allocations.c.orderid + " " + allocations.c.sku)
        .join(batches, batches.c.batchref == allocations.c.batchref)
        .where(batches.c.sku != allocations.c.sku)
    )


def _lines_accounted_for() -> Select[tuple[str]]:
    """Lines whose allocate succeeded, that are not on the books and that nobody gave up since."""
    asked, gave_up = commands, aliased(commands)
    orderid, sku = asked.c.body["orderid"].as_string(), asked.c.body["sku"].as_string()
    on_books = select(literal(1)).where(allocations.c.orderid == orderid, allocations.c.sku == sku)
    given_up = select(literal(1)).where(
        gave_up.c.name == "allocation.deallocate",
        gave_up.c.status == "succeeded",
        gave_up.c.body["orderid"].as_string() == orderid,
        gave_up.c.body["sku"].as_string() == sku,
    )
    return select(orderid + " " + sku).where(
        asked.c.name == "allocation.allocate",
        asked.c.status == "succeeded",
        ~on_books.exists(),
        ~given_up.exists(),
    )


def _commands_decided_or_on_their_way() -> Select[tuple[str]]:
    """Commands without an outcome that nothing will bring to a worker."""
    sent = select(outbox.c.id).where(outbox.c.id == commands.c.id)
    return select(commands.c.id).where(
        or_(
            and_(commands.c.status == "pending", ~sent.exists()),
            and_(commands.c.status != "pending", commands.c.outcome.is_(None)),
        )
    )


def _no_failed_commands() -> Select[tuple[str]]:
    """Commands that nobody could decide: their dead letters wait to be replayed."""
    return select(commands.c.name + " " + func.cast(commands.c.id, commands.c.name.type)).where(
        commands.c.status == "failed"
    )


def _sequences() -> Select[tuple[str]]:
    """Products whose events are not numbered from 1 to their sequence without a gap."""
    told = (
        select(
            outbox.c.sku,
            func.count().label("events"),
            func.min(outbox.c.sequence).label("first"),
            func.max(outbox.c.sequence).label("last"),
        )
        .where(outbox.c.kind == "event")
        .group_by(outbox.c.sku)
        .subquery()
    )
    return (
        select(products.c.sku)
        .outerjoin(told, told.c.sku == products.c.sku)
        .where(
            or_(
                func.coalesce(told.c.last, 0) != products.c.sequence,
                func.coalesce(told.c.events, 0) != products.c.sequence,
                told.c.first != 1,
            )
        )
    )


def _sent_in_order() -> Select[tuple[str]]:
    """Products of which a later event counts as sent while an earlier one does not."""
    later = aliased(outbox)
    return (
        select(outbox.c.sku)
        .join(later, and_(later.c.sku == outbox.c.sku, later.c.sequence > outbox.c.sequence))
        .where(outbox.c.kind == "event", outbox.c.sent_at.is_(None), later.c.sent_at.is_not(None))
        .distinct()
    )


def _nothing_waits_beside_its_stock() -> Select[tuple[str]]:
    """Products with a line that fits free stock, and nothing on its way to serve it."""
    free = (
        select(batches.c.sku, func.max(batches.c.purchased - batches.c.allocated).label("largest"))
        .group_by(batches.c.sku)
        .subquery()
    )
    smallest = (
        select(allocations.c.sku, func.min(allocations.c.qty).label("qty"))
        .where(allocations.c.batchref.is_(None))
        .group_by(allocations.c.sku)
        .subquery()
    )
    on_its_way = select(literal(1)).where(
        commands.c.name == "allocation.allocate_waiting",
        commands.c.status.in_(["pending", "failed"]),
        commands.c.body["sku"].as_string() == smallest.c.sku,
    )
    return (
        select(smallest.c.sku)
        .join(free, free.c.sku == smallest.c.sku)
        .where(smallest.c.qty <= free.c.largest, ~on_its_way.exists())
    )


PROOFS: tuple[tuple[str, Table, Callable[[], Select[tuple[str]]]], ...] = (
    (
        "each batch promises exactly what its lines hold, within its quantity",
        batches,
        _batch_counters,
    ),
    ("each line holds stock of its own product", allocations, _lines_on_batches_of_their_sku),
    (
        "each line that was taken is allocated, waiting, or was given up",
        allocations,
        _lines_accounted_for,
    ),
    ("each command has an outcome or is on its way", commands, _commands_decided_or_on_their_way),
    ("no command failed", commands, _no_failed_commands),
    ("each product's events are numbered without a gap", products, _sequences),
    ("each event is sent, or waits behind none of its product that is", outbox, _sent_in_order),
    ("no line waits beside stock that it fits", allocations, _nothing_waits_beside_its_stock),
)
