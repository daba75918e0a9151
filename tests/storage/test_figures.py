"""The figures that `allocation status` and the page show, on both databases."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Connection, insert

from allocation.adapters.sql.tables import commands
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import accept, execute
from allocation.views import progress
from allocation.views.progress import Backlog, Decided, Progress
from tests.storage.conftest import Storage, message


def command(
    connection: Connection,
    status: str,
    *,
    accepted: float,
    decided: float | None = None,
    name: str = "allocation.allocate",
) -> None:
    """Put a command on record that was accepted, and decided, so many seconds ago."""
    now = datetime.now(UTC)
    connection.execute(
        insert(commands).values(
            id=uuid4(),
            name=name,
            body={},
            status=status,
            outcome=None if status == "pending" else {},
            correlation_id=uuid4(),
            accepted_at=now - timedelta(seconds=accepted),
            decided_at=None if decided is None else now - timedelta(seconds=decided),
        )
    )


def figures(sql: Storage) -> Progress:
    assert sql.engine is not None
    with sql.engine.connect() as connection:
        return progress.current(connection, overdue_after=300)


def test_the_figures_of_an_empty_database_are_all_zero(sql: Storage) -> None:
    """Not missing."""
    assert figures(sql) == Progress(Backlog(0, 0.0, 0, 0.0, 0, 0, 0), Decided())


def test_the_figures_count_what_waits_and_what_was_just_decided(sql: Storage) -> None:
    """A line without stock waits; events and commands are unsent until a relay runs."""
    for number, each in enumerate(
        (
            CreateBatch("b1", "LAMP", 10, None),
            Allocate("o1", "LAMP", 3),
            Allocate("o2", "LAMP", 30),
            Allocate("o3", "CHAIR", 1),
        )
    ):
        execute(message(each, number), sql.unit_of_work())
    accept(message(Allocate("o4", "LAMP", 1), 9), sql.unit_of_work())

    seen = figures(sql)

    assert seen.backlog.unsent == len(sql.outbox())
    assert 0 < seen.backlog.oldest_unsent_seconds < 30
    assert seen.backlog.pending == 1
    assert (seen.backlog.overdue, seen.backlog.waiting_lines) == (0, 1)
    assert seen.last_minute == Decided(3, 1, 0)


def test_follow_ups_count_apart_from_what_clients_sent_and_overdue_counts_both(
    sql: Storage,
) -> None:
    assert sql.engine is not None
    with sql.engine.begin() as connection:
        command(connection, "pending", accepted=10)
        command(connection, "pending", accepted=310)
        command(connection, "failed", accepted=900, decided=800)
        for name in ("allocate_waiting", "review_promises", "expire"):
            command(connection, "pending", accepted=400, name=f"allocation.{name}")

    backlog = figures(sql).backlog

    assert (backlog.pending, backlog.follow_ups, backlog.overdue) == (2, 3, 4)
    assert 310 <= backlog.oldest_pending_seconds < 400


@pytest.mark.parametrize(
    ("accepted", "decided", "counts"),
    [(59, 1, True), (300, 55, True), (300, 65, False), (700, 5, False)],
)
def test_a_decision_counts_for_a_minute_however_long_the_queue_was(
    sql: Storage, accepted: float, decided: float, counts: bool
) -> None:
    """As long as an older command is pending, up to ten minutes back."""
    assert sql.engine is not None
    with sql.engine.begin() as connection:
        command(connection, "failed", accepted=accepted, decided=decided)
        command(connection, "pending", accepted=900)

    assert figures(sql).last_minute == Decided(failed=1 if counts else 0)


def test_what_is_kept_counts_however_old_it_is(sql: Storage) -> None:
    """By outcome; what is pending has none."""
    assert sql.engine is not None
    with sql.engine.begin() as connection:
        for status, decided in [("succeeded", 1), ("succeeded", 9000), ("failed", 9000)]:
            command(connection, status, accepted=9001, decided=decided)
        command(connection, "pending", accepted=1)

    with sql.engine.connect() as connection:
        assert progress.kept(connection) == Decided(succeeded=2, failed=1)
