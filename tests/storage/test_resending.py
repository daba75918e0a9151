"""Which commands the relay sends again, on both databases."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, delete, select, update

from allocation.adapters.rabbitmq.topology import Queued
from allocation.adapters.sql import audit
from allocation.adapters.sql.outbox import only_reader
from allocation.adapters.sql.tables import commands, outbox
from allocation.domain.commands import Allocate
from allocation.entrypoints.relay import missing
from allocation.service_layer.execution import accept, execute
from tests.storage.conftest import Storage, message

AFTER = 300


def accepted(sql: Storage, *numbers: int, seconds: float, sent: float | None) -> Engine:
    """Order lines accepted `seconds` ago, and sent that long ago; None: not sent yet."""
    assert sql.engine is not None
    now = datetime.now(UTC)
    for number in numbers:
        accept(message(Allocate(f"o{number}", "LAMP", 1), number), sql.unit_of_work())
    with sql.engine.begin() as connection:
        ids = [message(None, number).id for number in numbers]
        at = now - timedelta(seconds=seconds)
        connection.execute(update(commands).where(commands.c.id.in_(ids)).values(accepted_at=at))
        sent_at = None if sent is None else now - timedelta(seconds=sent)
        connection.execute(
            update(outbox).where(outbox.c.id.in_(ids)).values(created_at=at, sent_at=sent_at)
        )
    return sql.engine


def send_again(engine: Engine, limit: int = 500) -> int:
    with only_reader(engine) as reader:
        assert reader is not None
        return reader.send_again(AFTER, limit)


def unsent(engine: Engine) -> list[int]:
    """The numbers of the commands that the relay will send, in its order."""
    with only_reader(engine) as reader:
        assert reader is not None
        return [int(row.id[-12:], 16) for row in reader.pending(500)]


def test_only_a_command_that_is_pending_and_was_sent_too_long_ago_is_sent_again(
    sql: Storage,
) -> None:
    accepted(sql, 1, seconds=301, sent=301)
    accepted(sql, 2, seconds=299, sent=299)
    accepted(sql, 3, seconds=900, sent=10)
    engine = accepted(sql, 4, seconds=900, sent=900)
    execute(message(Allocate("o4", "LAMP", 1), 4), sql.unit_of_work())

    assert send_again(engine) == 1

    assert unsent(engine) == [1]


def test_the_oldest_are_sent_first_and_no_more_than_asked_for(sql: Storage) -> None:
    accepted(sql, 1, seconds=400, sent=400)
    engine = accepted(sql, 2, 3, seconds=500, sent=500)

    assert send_again(engine, limit=2) == 2

    assert sorted(unsent(engine)) == [2, 3]


def test_what_was_sent_again_waits_twice_as_long_each_time(sql: Storage) -> None:
    engine = accepted(sql, 1, seconds=1000, sent=1000)

    assert send_again(engine) == 1
    assert unsent(engine) == [1]
    sent_again(engine, seconds=998)
    assert send_again(engine) == 0
    sent_again(engine, seconds=1002)
    assert send_again(engine) == 1


def test_it_is_never_more_than_an_hour_until_the_next_time(sql: Storage) -> None:
    engine = accepted(sql, 1, seconds=90_000, sent=90_000)
    assert send_again(engine) == 1

    sent_again(engine, seconds=3599)
    assert send_again(engine) == 0
    sent_again(engine, seconds=3602)
    assert send_again(engine) == 1


def test_a_command_whose_outbox_row_was_dropped_gets_a_new_one(sql: Storage) -> None:
    engine = accepted(sql, 1, seconds=301, sent=301)
    with engine.begin() as connection:
        before = connection.execute(select(outbox)).one()
        connection.execute(delete(outbox))

    assert send_again(engine) == 1

    with engine.connect() as connection:
        after = connection.execute(select(outbox)).one()
    same = ("id", "kind", "name", "sku", "body", "correlation_id", "causation_id")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert after.sent_at is None


def test_what_is_not_sent_yet_is_awaited_from_no_queue(sql: Storage) -> None:
    accepted(sql, 1, 2, seconds=301, sent=301)
    engine = accepted(sql, 3, seconds=301, sent=None)

    with only_reader(engine) as reader:
        assert reader is not None
        assert reader.awaited() == 2


def test_a_queue_that_holds_as_many_messages_as_are_awaited_has_lost_none() -> None:
    assert missing(10, Queued(messages=10, consumers=0)) == 0
    assert missing(10, Queued(messages=12, consumers=0)) == 0
    assert missing(10, Queued(messages=4, consumers=0)) == 6
    assert missing(10, Queued(messages=0, consumers=3)) == 10


def test_while_consumers_have_their_hands_full_nothing_counts_as_lost() -> None:
    assert missing(1000, Queued(messages=100, consumers=2)) == 0


def test_the_proof_names_how_many_commands_are_overdue_and_the_oldest(sql: Storage) -> None:
    accepted(sql, 1, seconds=900, sent=900)
    accepted(sql, 2, seconds=301, sent=301)
    engine = accepted(sql, 3, seconds=299, sent=299)

    broken = [proof for proof in audit.run(engine, overdue_after=AFTER) if not proof.holds]

    assert [proof.promise for proof in broken] == [
        "no command has been pending for longer than ALLOCATION_RESEND_AFTER"
    ]
    [said] = broken[0].broken
    assert said.startswith("2 overdue, the oldest is allocation.allocate 00000000")
    assert "1: check that the workers and the relay run" in said


def sent_again(engine: Engine, seconds: float) -> None:
    """As if the row had been sent that long ago, and everything before that long before."""
    with engine.begin() as connection:
        row = connection.execute(select(outbox)).one()
        moved = datetime.now(UTC) - timedelta(seconds=seconds)
        by = moved - row.created_at
        connection.execute(update(outbox).values(sent_at=moved, created_at=moved))
        was = connection.scalar(select(commands.c.accepted_at))
        assert was is not None
        connection.execute(update(commands).values(accepted_at=was + by))
