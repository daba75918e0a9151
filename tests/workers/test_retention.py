"""A subscriber's old rows are deleted, without an effect on the others."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from typer import Typer
from typer.testing import CliRunner

from allocation.messaging import database
from allocation.messaging.resequencer import Resequencer
from allocation.messaging.retention import count, delete_in_steps
from tests.workers.conftest import envelope
from workers.notification.__main__ import app as notification
from workers.retention import RECEIVED
from workers.warehouse import pick_list, tables
from workers.warehouse.__main__ import app as warehouse
from workers.warehouse.dispatch_outbox import SENT
from workers.warehouse.dispatching import Wanted, dispatch
from workers.warehouse.running import MIGRATIONS

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LIMIT = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The warehouse's tables."""
    MIGRATIONS.upgrade(worker_engine)
    return worker_engine


def inbox_at(engine: Engine, time: datetime) -> Resequencer:
    return Resequencer(
        engine, tables.metadata, pick_list.apply, timedelta(seconds=60), lambda: time
    )


def fill(engine: Engine) -> None:
    """Five events that came long ago, one that waits since then, and one of today."""
    inbox = inbox_at(engine, LONG_AGO)
    for sequence in (1, 2, 3, 4, 7):
        inbox.take([envelope("allocated", sequence, eta=None, orderid=f"o{sequence}")])
    inbox.take([envelope("allocated", 1, eta=None, sku="CHAIR", orderid="o1")])
    inbox_at(engine, datetime.now(UTC)).take(
        [envelope("allocated", 2, eta=None, sku="CHAIR", orderid="o2", batchref="b9")]
    )


def noted(engine: Engine) -> list[tuple[str, int]]:
    columns = tables.received.c
    with engine.connect() as connection:
        rows = connection.execute(select(columns.subject, columns.sequence)).all()
    return sorted((subject, sequence) for subject, sequence in rows)


def test_old_notes_are_dropped_but_what_waits_and_the_last_of_each_sku(engine: Engine) -> None:
    """In steps, each its own transaction."""
    fill(engine)

    counted = count(engine, RECEIVED.past(tables.metadata, LIMIT))
    steps = list(delete_in_steps(engine, RECEIVED.past(tables.metadata, LIMIT), step=3))

    assert (counted, steps) == (4, [3, 1])
    assert noted(engine) == [("CHAIR", 2), ("LAMP", 4), ("LAMP", 7)]


def test_what_was_forgotten_and_comes_again_changes_nothing(engine: Engine) -> None:
    """Nor does what waited lose its turn."""
    fill(engine)
    list(delete_in_steps(engine, RECEIVED.past(tables.metadata, LIMIT)))
    before = pick_list.listed(engine)
    inbox = inbox_at(engine, datetime.now(UTC))

    for sequence in (1, 2, 3, 4):
        inbox.take([envelope("allocated", sequence, eta=None, orderid=f"o{sequence}")])
    after_repeats = pick_list.listed(engine)
    for sequence in (5, 6):
        inbox.take([envelope("allocated", sequence, eta=None, orderid=f"o{sequence}")])

    assert after_repeats == before
    assert [pick["opened_sequence"] for pick in pick_list.listed(engine)][-3:] == [5, 6, 7]


@pytest.mark.parametrize(
    ("app", "others"),
    [(warehouse, {"sent": 0}), (notification, {})],
    ids=["warehouse", "notification"],
)
def test_each_subscriber_has_the_command(
    app: Typer, others: dict[str, int], state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how much it dropped, and makes its tables where they are missing."""
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))
    monkeypatch.setenv("SUBSCRIBER_KEEP", "1")

    shown = CliRunner().invoke(app, ["prune"], catch_exceptions=False)
    counted = CliRunner().invoke(app, ["prune", "--dry-run", "--json"], catch_exceptions=False)

    assert (shown.exit_code, counted.exit_code) == (0, 0)
    assert shown.stdout.startswith("0 records of received events before ")
    assert json.loads(counted.stdout) == {"dry_run": True, "received": 0} | others


def test_the_command_drops_what_the_setting_says(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))
    made = database.engine(f"sqlite:///{state_dir}/warehouse.db")
    MIGRATIONS.upgrade(made)
    fill(made)

    shown = CliRunner().invoke(warehouse, ["prune"], catch_exceptions=False)

    assert shown.stdout.startswith("4 records of received events before ")
    assert noted(made) == [("CHAIR", 2), ("LAMP", 4), ("LAMP", 7)]
    made.dispose()


def sent_at(engine: Engine, orderid: str, time: datetime | None) -> None:
    """Dispatch the order; what tells it was sent at this time, or not yet."""
    dispatch(engine, Wanted(orderid), LONG_AGO)
    columns = tables.outbox.c
    with engine.begin() as connection:
        connection.execute(
            update(tables.outbox).where(columns.body.contains(orderid)).values(sent_at=time)
        )


def test_what_the_warehouse_told_long_ago_is_forgotten_and_what_it_has_to_tell_is_kept(
    engine: Engine,
) -> None:
    fill(engine)
    for orderid, time in {
        "o1": LONG_AGO,
        "o2": LIMIT - timedelta(seconds=1),
        "o3": LIMIT,
        "o4": None,
    }.items():
        sent_at(engine, orderid, time)

    counted = count(engine, SENT.past(tables.metadata, LIMIT))
    steps = list(delete_in_steps(engine, SENT.past(tables.metadata, LIMIT), step=2))

    columns = tables.outbox.c
    with engine.connect() as connection:
        left = connection.scalars(select(columns.body).order_by(columns.sent_at)).all()
    assert (counted, sum(steps)) == (4, 4)
    assert sorted(json.loads(body)["data"]["orderid"] for body in left) == ["o3", "o4"]


def test_the_warehouse_s_command_drops_both(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))
    made = database.engine(f"sqlite:///{state_dir}/warehouse.db")
    MIGRATIONS.upgrade(made)
    fill(made)
    sent_at(made, "o3", LONG_AGO)

    shown = CliRunner().invoke(warehouse, ["prune"], catch_exceptions=False)

    assert [line.partition(" before ")[0] for line in shown.stdout.splitlines()] == [
        "4 records of received events",
        "1 event sent",
    ]
    made.dispose()
