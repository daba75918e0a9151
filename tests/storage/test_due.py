"""Commands that are due later: accepted when the database's clock says so, once, and not before."""

from datetime import timedelta

from sqlalchemy import Engine, func, select, update

from allocation.adapters.sql.outbox import only_reader
from allocation.adapters.sql.tables import allocations, commands, outbox
from allocation.domain.commands import Confirm, CreateBatch, Expire, Extend, Reserve
from allocation.domain.outcomes import Refused, Succeeded
from allocation.service_layer.execution import execute, execute_batch
from allocation.service_layer.unit_of_work import Message
from allocation.views import progress
from tests.storage.conftest import Storage, message

EXPIRE = "allocation.expire"


def reserved(sql: Storage, *skus: str) -> Engine:
    """An order that holds a piece of each sku, by commands that were decided together."""
    made = [message(CreateBatch(f"b-{sku}", sku, 10), n) for n, sku in enumerate(skus, start=1)]
    held = [message(Reserve("o1", sku, 1, 900), n) for n, sku in enumerate(skus, start=101)]
    execute_batch(made + held, sql.unit_of_work())
    assert sql.engine is not None
    return sql.engine


def make_due(engine: Engine) -> None:
    """As if the time had passed."""
    with engine.begin() as connection:
        now = connection.scalar(select(func.max(outbox.c.created_at)))
        assert now is not None
        connection.execute(
            update(outbox)
            .where(outbox.c.due_at.is_not(None))
            .values(due_at=now - timedelta(seconds=1))
        )


def accept_due(engine: Engine) -> int:
    with only_reader(engine) as reader:
        assert reader is not None
        return reader.accept_due()


def expirations(engine: Engine) -> list[Message]:
    """The expire commands that were accepted."""
    with engine.connect() as connection:
        rows = connection.execute(select(commands).where(commands.c.name == EXPIRE)).all()
        [until] = set(connection.scalars(select(allocations.c.expires_at)))
    return [Message(row.id, Expire("o1", until), row.correlation_id) for row in rows]


def held(engine: Engine) -> int:
    with engine.connect() as connection:
        query = select(func.count()).where(allocations.c.expires_at.is_not(None))
        return connection.scalar(query) or 0


def test_a_reservation_does_not_expire_before_its_time(sql: Storage) -> None:
    """Its end is on record, and counts neither as pending nor as unsent."""
    engine = reserved(sql, "LAMP")

    assert accept_due(engine) == 0
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(outbox.c.name == EXPIRE)) == 1
        names = set(connection.scalars(select(commands.c.name)))
        unsent = progress.backlog(connection, overdue_after=300).unsent
        rows = connection.scalar(select(func.count()).select_from(outbox))
    assert EXPIRE not in names
    assert unsent == (rows or 0) - 1


def test_what_is_due_is_accepted_once_and_as_of_now(sql: Storage) -> None:
    """Under the id that it had; its age counts from then on."""
    engine = reserved(sql, "LAMP")
    with engine.connect() as connection:
        [scheduled] = connection.scalars(select(outbox.c.id).where(outbox.c.name == EXPIRE))
    make_due(engine)

    assert (accept_due(engine), accept_due(engine)) == (1, 0)

    assert [each.id for each in expirations(engine)] == [scheduled]
    with engine.connect() as connection:
        assert progress.oldest_unsent(connection) < 30


def test_a_death_in_between_is_repaired_by_the_next_one(sql: Storage) -> None:
    """Accepted, but still scheduled: it is accepted again, which changes nothing."""
    engine = reserved(sql, "LAMP")
    make_due(engine)
    with engine.connect() as connection:
        [row] = connection.execute(select(outbox).where(outbox.c.name == EXPIRE))
    accept_due(engine)
    with engine.begin() as connection:
        connection.execute(
            update(outbox)
            .where(outbox.c.id == row.id)
            .values(due_at=row.due_at, sent_at=row.sent_at)
        )

    assert accept_due(engine) == 1

    assert len(expirations(engine)) == 1


def test_the_lines_of_an_order_expire_together(sql: Storage) -> None:
    """Those that were reserved by one transaction, each at its own time."""
    engine = reserved(sql, "LAMP", "CHAIR")
    with engine.begin() as connection:
        until = connection.scalar(select(func.max(allocations.c.expires_at)))
        connection.execute(update(allocations).values(expires_at=until))
    assert until is not None

    outcome = execute(message(Expire("o1", until), 200), sql.unit_of_work())

    assert outcome == Succeeded(status="expired", lines=2)
    assert held(engine) == 0


def test_an_order_is_confirmed_over_all_its_products_at_once(sql: Storage) -> None:
    """And what would have ended its reservation finds nothing to end."""
    engine = reserved(sql, "LAMP", "CHAIR")
    make_due(engine)
    accept_due(engine)
    with engine.connect() as connection:
        times = list(connection.scalars(select(allocations.c.expires_at)))

    confirmed = execute(message(Confirm("o1"), 200), sql.unit_of_work())
    expired = [
        execute(message(Expire("o1", each), 300 + n), sql.unit_of_work())
        for n, each in enumerate(times)
    ]

    assert confirmed == Succeeded(status="confirmed", lines=2, waiting=0)
    assert expired == [Succeeded(status="kept", lines=0)] * 2


def test_a_reservation_and_its_confirmation_may_be_decided_together(sql: Storage) -> None:
    """The order's line is on the books before it is stored."""
    commands_given = [
        CreateBatch("b1", "LAMP", 10),
        Reserve("o1", "LAMP", 1, 900),
        Confirm("o1"),
        Confirm("o2"),
    ]
    messages = [message(each, n) for n, each in enumerate(commands_given, start=1)]

    outcomes = execute_batch(messages, sql.unit_of_work())

    assert outcomes[2:] == [
        Succeeded(status="confirmed", lines=1, waiting=0),
        Refused("no reservation", field="orderid", orderid="o2"),
    ]


def test_an_order_is_extended_as_a_whole_or_not_at_all(sql: Storage) -> None:
    """Here one of its lines was extended before."""
    engine = reserved(sql, "LAMP")
    execute(message(Extend("o1", 1800), 200), sql.unit_of_work())
    execute(message(CreateBatch("b2", "CHAIR", 10), 201), sql.unit_of_work())
    execute(message(Reserve("o1", "CHAIR", 1, 900), 202), sql.unit_of_work())

    outcome = execute(message(Extend("o1", 1800), 203), sql.unit_of_work())

    assert outcome == Refused("extended already", field="orderid", orderid="o1", sku="LAMP")
    with engine.connect() as connection:
        query = select(allocations.c.extended).order_by(allocations.c.sku)
        assert list(connection.scalars(query)) == [False, True]
