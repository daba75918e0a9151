"""The invariants of the books, each as one SQL statement that finds violations.

Each statement works on sets and groups, never row by row. It holds on any snapshot of a running
system, also when past events and commands were pruned. The only bind parameters of all statements
are `overdue_before`, a time, and `today`, a day of the shop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Date,
    Engine,
    Select,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    except_,
    exists,
    false,
    func,
    or_,
    select,
    text,
    true,
    union,
    union_all,
)

from allocation.adapters.sql.database import ago, clock
from allocation.adapters.sql.tables import (
    allocations,
    batches,
    commands,
    holds,
    in_service_order,
    is_particular,
    is_pending,
    is_scheduled,
    needs,
    outbox,
    products,
    promised,
    serves,
    waits,
)
from allocation.domain.strategies import IN_ORDER
from allocation.messaging.database import is_postgresql

Violations = Select[Any] | CompoundSelect[Any]
Statement = Callable[[], Violations]


class Invariant(NamedTuple):
    """A sentence, the table whose rows are examined, and the statement that finds violations."""

    promise: str
    table: Table
    violations: Statement


INVARIANTS: list[Invariant] = []


def invariant(promise: str, table: Table) -> Callable[[Statement], Statement]:
    """Have the function's statement find violations of this sentence."""

    def register(violations: Statement) -> Statement:
        INVARIANTS.append(Invariant(promise, table, violations))
        return violations

    return register


@dataclass(frozen=True, slots=True)
class Result:
    """Of one invariant: `examined` counts the rows of its table, `broken` names violations."""

    promise: str
    examined: int
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.broken


def run(
    engine: Engine,
    overdue_after: float = 300,
    most: int = 10,
    clock: Callable[[Connection], datetime] = clock,
    calendar: tzinfo = UTC,
) -> Iterator[Result]:
    """Check every invariant on one snapshot of the database, so a live system can be checked.

    A command is overdue after it was pending for `overdue_after` seconds. At most `most` violations
    are named per invariant. `calendar` is the time zone in which the shop's days begin.
    """
    options = {"isolation_level": "REPEATABLE READ"} if is_postgresql(engine) else {}
    examined: dict[str, int] = {}
    with engine.connect().execution_options(**options) as connection:
        if is_postgresql(engine):
            # To group a million rows in memory; to compile a statement takes longer than it saves.
            connection.execute(text("SET LOCAL work_mem = '64MB'"))
            connection.execute(text("SET LOCAL jit = off"))
        overdue_before = connection.scalar(select(ago(connection, overdue_after)))
        today = clock(connection).astimezone(calendar).date()
        for promise, table, violations in INVARIANTS:
            if table.name not in examined:
                count = connection.scalar(select(func.count()).select_from(table))
                examined[table.name] = count or 0
            # The limit stands outside: inside, PostgreSQL expects to be done soon and goes row by
            # row, while as a rule there is no violation.
            found = violations().cte("found").prefix_with("MATERIALIZED")
            broken = connection.scalars(
                select(found).limit(most), {"overdue_before": overdue_before, "today": today}
            )
            yield Result(promise, examined[table.name], tuple(map(str, broken)))


_ALLOCATED = "allocation.allocated.v1"
_DEALLOCATED = "allocation.deallocated.v1"
_OUT_OF_STOCK = "allocation.out_of_stock.v1"
_RESERVED = "allocation.reserved.v1"
_RELEASED = "allocation.reservation_released.v1"
_DISPATCHED = "allocation.dispatched.v1"
_GONE = case((allocations.c.dispatched, allocations.c.qty), else_=allocations.c.dispatched_qty)
"""Pieces of a line that have left."""


@invariant("each batch promises exactly what its lines hold, within its quantity", batches)
def batch_counters() -> Violations:
    held = (
        select(allocations.c.batchref, func.sum(holds).label("qty"))
        .where(promised)
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


@invariant("each line holds stock of its own product", allocations)
def lines_on_batches_of_their_sku() -> Violations:
    return (
        select(_line(allocations.c.orderid, allocations.c.sku))
        .join(batches, batches.c.batchref == allocations.c.batchref)
        .where(batches.c.sku != allocations.c.sku)
    )


@invariant("each accepted line is allocated, waiting, or was given up", allocations)
def lines_accounted_for() -> Violations:

    def of_succeeded(*names: str) -> Select[tuple[str, str]]:
        orderid, sku = commands.c.body["orderid"], commands.c.body["sku"]
        return select(orderid.as_string().label("orderid"), sku.as_string().label("sku")).where(
            commands.c.name.in_(names), commands.c.status == "succeeded"
        )

    missing = except_(
        of_succeeded("allocation.allocate", "allocation.reserve"),
        select(allocations.c.orderid, allocations.c.sku),
        of_succeeded("allocation.deallocate"),
    ).subquery()
    # These give up what is held of an order, or all of it, whatever its skus.
    released = of_succeeded(
        *("allocation.release", "allocation.expire", "allocation.cancel_order")
    ).subquery()
    return select(_line(missing.c.orderid, missing.c.sku)).where(
        missing.c.orderid.not_in(select(released.c.orderid))
    )


@invariant("each line has the status of the last event about it", outbox)
def lines_where_their_last_event_left_them() -> Violations:
    """Lines on the books that contradict the last event that is kept of them.

    `promises_published_as_booked` compares a promise with its own event. So this reads only the
    other events, which are few: none may be newer than the promise.
    """
    others = except_(
        select(outbox.c.sku, outbox.c.sequence).where(
            outbox.c.name.in_([_ALLOCATED, _DEALLOCATED, _OUT_OF_STOCK, _RESERVED, _RELEASED])
        ),
        select(allocations.c.sku, allocations.c.promised_at).where(
            allocations.c.promised_at.is_not(None)
        ),
    ).subquery()
    orderid = outbox.c.body["data", "orderid"].as_string()
    part = func.coalesce(outbox.c.body["data", "part"].as_integer(), 0)
    last = (
        select(
            outbox.c.sku,
            orderid.label("orderid"),
            part.label("part"),
            func.max(outbox.c.sequence).label("number"),
        )
        .join(others, and_(others.c.sku == outbox.c.sku, others.c.sequence == outbox.c.sequence))
        .group_by(outbox.c.sku, orderid, part)
        .subquery()
    )
    newest = (
        select(last.c.sku, last.c.orderid, func.max(last.c.number).label("number"))
        .group_by(last.c.sku, last.c.orderid)
        .subquery()
    )
    of_line = allocations.alias()
    line_is_there = exists().where(of_line.c.orderid == last.c.orderid, of_line.c.sku == last.c.sku)
    event = outbox.alias()
    given_up = or_(
        and_(
            event.c.name == _DEALLOCATED,
            event.c.body["causationtype"]
            .as_string()
            .in_(["allocation.deallocate", "allocation.cancel_order"]),
        ),
        and_(
            event.c.name == _RELEASED,
            event.c.body["data", "reason"].as_string() != "moved",
        ),
    )
    return (
        select(_line(last.c.orderid, last.c.sku))
        .join(newest, and_(newest.c.sku == last.c.sku, newest.c.orderid == last.c.orderid))
        .join(event, and_(event.c.sku == last.c.sku, event.c.sequence == last.c.number))
        .outerjoin(
            allocations,
            and_(
                allocations.c.orderid == last.c.orderid,
                allocations.c.sku == last.c.sku,
                allocations.c.part == last.c.part,
            ),
        )
        .where(
            or_(
                # A part may have joined another part of its line. Only a line that is gone as a
                # whole needs an event that gives it up.
                and_(last.c.number == newest.c.number, ~given_up, ~line_is_there),
                # A line that was given up may be back and wait, without an event yet.
                and_(allocations.c.batchref.is_(None), event.c.name.in_([_ALLOCATED, _RESERVED])),
                allocations.c.promised_at < event.c.sequence,
            )
        )
    )


@invariant("each promise was published as the books have it", allocations)
def promises_published_as_booked() -> Violations:
    name = case((allocations.c.expires_at.is_(None), _ALLOCATED), else_=_RESERVED)
    body = cast(outbox.c.body, Text)
    data = {name: outbox.c.body["data", name] for name in ("orderid", "batchref", "qty")}
    # To open a million events takes long, and nearly all have these words letter by letter. No text
    # inside of one can look so: its quotes would have backslashes.
    said_so = and_(
        _has(body, '"orderid": "' + allocations.c.orderid + '"'),
        _has(body, '"batchref": "' + allocations.c.batchref + '"'),
        _has(body, '"qty": ' + cast(allocations.c.qty, Text) + ","),
    )
    qty = func.coalesce(data["qty"].as_integer(), 0)
    # Pieces that had left when the rest was moved or given up were promised together with it.
    differs = or_(
        data["orderid"].as_string().is_distinct_from(allocations.c.orderid),
        data["batchref"].as_string().is_distinct_from(allocations.c.batchref),
        qty < allocations.c.qty,
        and_(qty > allocations.c.qty, ~allocations.c.dispatched),
    )
    return (
        select(_line(allocations.c.orderid, allocations.c.sku))
        .join(
            outbox,
            and_(
                outbox.c.kind == "event",
                outbox.c.sku == allocations.c.sku,
                outbox.c.sequence == allocations.c.promised_at,
            ),
        )
        .where(case((outbox.c.name != name, true()), (said_so, false()), else_=differs))
    )


@invariant("each command that was accepted is stored", outbox)
def accepted_commands_known() -> Violations:
    known = exists().where(commands.c.id == outbox.c.id)
    return select(outbox.c.id).where(outbox.c.kind == "command", ~is_scheduled, ~known)


@invariant("each command has an outcome or is in the outbox", commands)
def pending_commands_in_outbox() -> Violations:
    sent = exists().where(outbox.c.id == commands.c.id)
    return select(commands.c.id).where(commands.c.status == "pending", ~sent)


@invariant("no command has been pending for longer than ALLOCATION_RESEND_AFTER", commands)
def no_overdue_commands() -> Violations:
    """How many commands have been pending since before `overdue_before`, and the oldest of them."""
    overdue = and_(is_pending, commands.c.accepted_at < bindparam("overdue_before"))
    count = select(func.count()).select_from(commands).where(overdue).scalar_subquery()
    return (
        select(
            cast(count, String)
            + (" overdue, the oldest is " + commands.c.name + " ")
            + cast(commands.c.id, String)
            + (
                ": check that the workers and the relay run; the relay publishes commands again"
                " that the broker has lost. `allocation status` shows the queue, `allocation"
                " dead list` the commands that failed"
            )
        )
        .where(overdue)
        .order_by(commands.c.accepted_at)
        .limit(1)
    )


@invariant("no command failed", commands)
def no_failed_commands() -> Violations:
    return select(commands.c.name + " " + cast(commands.c.id, String)).where(
        commands.c.status == "failed"
    )


@invariant("each product's events are numbered without a gap", products)
def sequences() -> Violations:
    """Products whose kept events are not numbered up to their sequence without a gap.

    The newest event of a product is always kept.
    """
    published = (
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
        .outerjoin(published, published.c.sku == products.c.sku)
        .where(
            or_(
                func.coalesce(published.c.last, 0) != products.c.sequence,
                published.c.events != published.c.last - published.c.first + 1,
                published.c.first < 1,
            )
        )
    )


@invariant("no event was published before an earlier event of its product", outbox)
def sent_in_order() -> Violations:
    is_sent = outbox.c.sent_at.is_not(None)
    first_unsent = func.min(case((~is_sent, outbox.c.sequence)))
    last_sent = func.max(case((is_sent, outbox.c.sequence)))
    return (
        select(outbox.c.sku)
        .where(outbox.c.kind == "event")
        .group_by(outbox.c.sku)
        .having(first_unsent < last_sent)
    )


@invariant("no line waits beside stock that it may have", allocations)
def nothing_waits_beside_its_stock() -> Violations:
    """Products of which a line waits that a batch serves, and no pending command serves it.

    If nothing is served past a waiting line, that is asked of the first one only.
    """
    today = bindparam("today", type_=Date)
    is_good = and_(
        batches.c.blocked.is_(None),
        or_(
            batches.c.best_before.is_(None),
            and_(
                batches.c.best_before >= today,
                or_(batches.c.eta.is_(None), batches.c.best_before >= batches.c.eta),
            ),
        ),
    )
    free = (
        select(batches.c.sku, func.max(batches.c.purchased - batches.c.allocated).label("largest"))
        .where(is_good)
        .group_by(batches.c.sku)
        .subquery()
    )
    smallest = (
        select(allocations.c.sku, func.min(needs).label("qty"))
        .where(waits, ~is_particular)
        .group_by(allocations.c.sku)
        .subquery()
    )
    of_product = products.c.sku == allocations.c.sku
    place = func.row_number().over(partition_by=allocations.c.sku, order_by=in_service_order)
    queue = (
        select(allocations.c.sku, allocations.c.orderid, place.label("place"))
        .join(products, of_product)
        .where(waits, products.c.waiting == IN_ORDER)
        .subquery()
    )
    is_first = and_(
        *(queue.c.sku == allocations.c.sku, queue.c.orderid == allocations.c.orderid),
        queue.c.place == 1,
    )
    its_batches = batches.c.sku == allocations.c.sku
    beside_its_stock = union(
        select(smallest.c.sku)
        .join(free, free.c.sku == smallest.c.sku)
        .join(products, products.c.sku == smallest.c.sku)
        .where(smallest.c.qty <= free.c.largest, products.c.waiting != IN_ORDER),
        select(allocations.c.sku)
        .join(products, of_product)
        .join(batches, its_batches)
        .where(waits, is_particular, serves(today), products.c.waiting != IN_ORDER),
        select(allocations.c.sku)
        .join(queue, is_first)
        .join(batches, its_batches)
        .where(waits, serves(today)),
    ).subquery()
    return except_(
        select(beside_its_stock.c.sku),
        _named_by_undecided("allocation.allocate_waiting", "sku"),
    )


@invariant("no line holds stock of a batch that is blocked, or was taken out", allocations)
def no_promise_on_unusable_stock() -> Violations:
    return (
        select(_line(allocations.c.orderid, allocations.c.sku))
        .join(batches, batches.c.batchref == allocations.c.batchref)
        .where(promised, or_(batches.c.blocked.is_not(None), batches.c.expired))
    )


@invariant("each batch is looked at when its last good day or its ETA has passed", batches)
def days_will_be_looked_at() -> Violations:
    """Batches with such a day, and no scheduled or pending command for it."""
    expiry = _without_follow_up("allocation.expire_batch", "best_before", batches.c.expired)
    overdue = _without_follow_up("allocation.mark_overdue", "eta", batches.c.overdue)
    return union(expiry, overdue)


def _without_follow_up(command: str, day: str, is_done: ColumnElement[bool]) -> Select[Any]:
    def named(table: Table, condition: ColumnElement[bool]) -> Select[Any]:
        return select(table.c.body["batchref"].as_string(), table.c.body[day].as_string()).where(
            table.c.name == command, condition
        )

    missing = except_(
        select(batches.c.batchref, cast(batches.c[day], String)).where(
            batches.c[day].is_not(None), ~is_done
        ),
        named(outbox, is_scheduled),
        named(commands, commands.c.status.in_(["pending", "failed"])),
    ).subquery()
    return select(missing.c.batchref)


@invariant("of each line has left what was published, and no more came back", allocations)
def what_has_left_was_published() -> Violations:
    """Lines of which other pieces have left than their events say; of pruned events, fewer."""
    orderid = func.coalesce(outbox.c.orderid, outbox.c.body["data", "orderid"].as_string())
    pieces = union_all(
        select(allocations.c.sku, allocations.c.orderid, _GONE.label("qty")).where(_GONE > 0),
        select(
            *(outbox.c.sku, orderid.label("orderid")),
            -outbox.c.body["data", "qty"].as_integer(),
        ).where(outbox.c.name == _DISPATCHED),
    ).subquery()
    differs = (
        select(pieces.c.sku, pieces.c.orderid, func.sum(pieces.c.qty).label("qty"))
        .group_by(pieces.c.sku, pieces.c.orderid)
        .having(func.sum(pieces.c.qty) != 0)
        .subquery()
    )
    first = exists().where(outbox.c.sku == differs.c.sku, outbox.c.sequence == 1)
    counts = and_(
        *(allocations.c.returned >= 0, allocations.c.returned <= _GONE),
        *(allocations.c.dispatched_qty >= 0, allocations.c.dispatched_qty < allocations.c.qty),
        or_(promised, allocations.c.dispatched_qty == 0),
    )
    return union(
        select(_line(differs.c.orderid, differs.c.sku)).where(or_(differs.c.qty < 0, first)),
        select(_line(allocations.c.orderid, allocations.c.sku)).where(~counts),
    )


@invariant("the promised day of each line is its batch's ETA", allocations)
def promised_days_published() -> Violations:
    """Batches that come on another day than they promised to lines, and no pending review."""
    return except_(
        select(batches.c.batchref)
        .join(allocations, allocations.c.batchref == batches.c.batchref)
        .where(promised, allocations.c.eta.is_distinct_from(batches.c.eta)),
        _named_by_undecided("allocation.review_promises", "batchref"),
    )


@invariant("each reservation will end", allocations)
def reservations_end() -> Violations:
    """Orders with a line that is held, and no scheduled or pending command that ends it."""
    orderid = outbox.c.body["orderid"].as_string()
    return except_(
        select(allocations.c.orderid).where(allocations.c.expires_at.is_not(None)),
        select(orderid).where(outbox.c.name == "allocation.expire", is_scheduled),
        _named_by_undecided("allocation.expire", "orderid"),
    )


def _named_by_undecided(command: str, field: str) -> Select[Any]:
    """What this field of the commands of this name holds, of those without an outcome."""
    return select(commands.c.body[field].as_string()).where(
        commands.c.name == command, commands.c.status.in_(["pending", "failed"])
    )


def _has(text: ColumnElement[str], words: ColumnElement[str]) -> ColumnElement[bool]:
    # Both databases have replace(), and different functions to search.
    return func.replace(text, words, "") != text


def _line(orderid: ColumnElement[str], sku: ColumnElement[str]) -> ColumnElement[str]:
    return orderid + " " + sku
