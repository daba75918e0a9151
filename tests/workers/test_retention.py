"""A subscriber forgets what came long ago, and no effect comes of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from typer import Typer
from typer.testing import CliRunner

from tests.workers.conftest import envelope
from workers import database, retention
from workers.inbox import Inbox
from workers.notification.__main__ import app as notification
from workers.warehouse import pick_list, tables
from workers.warehouse.__main__ import MIGRATIONS
from workers.warehouse.__main__ import app as warehouse

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LIMIT = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The warehouse's tables."""
    database.upgrade(worker_engine, MIGRATIONS, tables.VERSION_TABLE)
    return worker_engine


def inbox_at(engine: Engine, time: datetime) -> Inbox:
    return Inbox(engine, tables.metadata, pick_list.apply, timedelta(seconds=60), lambda: time)


def fill(engine: Engine) -> None:
    """Five events that came long ago, one that waits since then, and one of today."""
    inbox = inbox_at(engine, LONG_AGO)
    for sequence in (1, 2, 3, 4, 7):
        inbox.take([envelope("allocated", sequence, orderid=f"o{sequence}")])
    inbox.take([envelope("allocated", 1, sku="CHAIR", orderid="o1")])
    inbox_at(engine, datetime.now(UTC)).take(
        [envelope("allocated", 2, sku="CHAIR", orderid="o2", batchref="b9")]
    )


def noted(engine: Engine) -> list[tuple[str, int]]:
    columns = tables.received.c
    with engine.connect() as connection:
        rows = connection.execute(select(columns.sku, columns.sequence)).all()
    return sorted((row.sku, row.sequence) for row in rows)


def test_old_notes_are_dropped_but_what_waits_and_the_last_of_each_sku(engine: Engine) -> None:
    """In steps, each its own transaction."""
    fill(engine)

    counted = retention.past(engine, tables.metadata, LIMIT)
    steps = list(retention.drop(engine, tables.metadata, LIMIT, step=3))

    assert (counted, steps) == (4, [3, 1])
    assert noted(engine) == [("CHAIR", 2), ("LAMP", 4), ("LAMP", 7)]


def test_what_was_forgotten_and_comes_again_changes_nothing(engine: Engine) -> None:
    """Nor does what waited lose its turn."""
    fill(engine)
    list(retention.drop(engine, tables.metadata, LIMIT))
    before = pick_list.listed(engine)
    inbox = inbox_at(engine, datetime.now(UTC))

    for sequence in (1, 2, 3, 4):
        inbox.take([envelope("allocated", sequence, orderid=f"o{sequence}")])
    after_repeats = pick_list.listed(engine)
    for sequence in (5, 6):
        inbox.take([envelope("allocated", sequence, orderid=f"o{sequence}")])

    assert after_repeats == before
    assert [pick["opened_sequence"] for pick in pick_list.listed(engine)][-3:] == [5, 6, 7]


@pytest.mark.parametrize("app", [warehouse, notification], ids=["warehouse", "notification"])
def test_each_subscriber_has_the_command(
    app: Typer, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how much it dropped, and makes its tables where they are missing."""
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))
    monkeypatch.setenv("SUBSCRIBER_KEEP", "1")

    shown = CliRunner().invoke(app, ["prune"], catch_exceptions=False)
    counted = CliRunner().invoke(app, ["prune", "--dry-run", "--json"], catch_exceptions=False)

    assert (shown.exit_code, counted.exit_code) == (0, 0)
    assert shown.stdout.startswith("0 notes of events received before ")
    assert counted.stdout == '{"dry_run": true, "received": 0}\n'


def test_the_command_drops_what_the_setting_says(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days since the event came."""
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))
    made = database.engine(f"sqlite:///{state_dir}/warehouse.db")
    database.upgrade(made, MIGRATIONS, tables.VERSION_TABLE)
    fill(made)

    shown = CliRunner().invoke(warehouse, ["prune"], catch_exceptions=False)

    assert shown.stdout.startswith("4 notes of events received before ")
    assert noted(made) == [("CHAIR", 2), ("LAMP", 4), ("LAMP", 7)]
    made.dispose()
