"""`python -m workers.warehouse dispatch`: its output and exit status."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from allocation.messaging import database
from tests.workers.test_dispatch import promised, take, taken, told
from workers.warehouse import pick_list
from workers.warehouse.__main__ import app
from workers.warehouse.running import MIGRATIONS


@pytest.fixture
def embedded(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The embedded default: SQLite in a folder of the test's own, with its tables."""
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))
    monkeypatch.delenv("WAREHOUSE_DATABASE_URL", raising=False)
    made = database.engine(f"sqlite:///{state_dir}/warehouse.db")
    MIGRATIONS.upgrade(made)
    yield made
    made.dispose()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_the_command_says_what_leaves(embedded: Engine) -> None:
    take(embedded, promised(1), promised(1, sku="CHAIR"))

    ended = run("dispatch", "o1")

    assert (ended.exit_code, ended.stdout) == (
        0,
        "Dispatched 3 x CHAIR from the batch b1 for the order o1.\n"
        "Dispatched 3 x LAMP from the batch b1 for the order o1.\n",
    )
    shown = json.loads(run("picks", "--json").stdout)
    assert [(pick["status"], pick["closed_sequence"]) for pick in shown] == [
        ("dispatched", None)
    ] * 2


def test_programs_are_told_what_leaves(embedded: Engine) -> None:
    """And what can't be dispatched stays a sentence beside standard output."""
    take(embedded, promised(1))

    first, again = (run("dispatch", "o1", "--json") for _ in range(2))

    assert first.exit_code == 0
    assert json.loads(first.stdout) == {
        "dispatched": [{"orderid": "o1", "sku": "LAMP", "qty": 3, "batchref": "b1", "left": 0}]
    }
    assert (again.exit_code, again.stdout) == (1, "")
    assert "was already dispatched" in again.stderr


def test_the_command_says_what_it_can_not_dispatch_and_fails(embedded: Engine) -> None:
    take(embedded, promised(1), taken(2), promised(1, sku="CHAIR"))
    run("dispatch", "o1", "--sku", "CHAIR")
    before = (pick_list.listed(embedded), told(embedded))

    ends = [
        run(*command)
        for command in (
            ("dispatch", "o1"),
            ("dispatch", "o1", "--sku", "LAMP"),
            ("dispatch", "o2"),
            ("dispatch", "o1", "--sku", "TABLE"),
        )
    ]

    assert [(ended.exit_code, ended.stdout) for ended in ends] == [(1, "")] * 4
    assert [ended.stderr for ended in ends] == [
        "The pick of 3 x CHAIR for the order o1 was already dispatched.\n"
        "The pick of 3 x LAMP for the order o1 was cancelled.\n",
        "The pick of 3 x LAMP for the order o1 was cancelled.\n",
        "The pick list has no pick for the order o2.\n",
        "The pick list has no pick for the order o1 and the sku TABLE.\n",
    ]
    assert (pick_list.listed(embedded), told(embedded)) == before


def test_of_a_pick_some_pieces_may_leave(embedded: Engine) -> None:
    take(embedded, promised(1))

    first = run("dispatch", "o1", "--qty", "2", "--batchref", "b1")
    rows = json.loads(run("picks", "--json").stdout)
    second = run("dispatch", "o1", "--json")
    again = run("dispatch", "o1", "--qty", "1")

    assert (first.exit_code, first.stdout) == (
        0,
        "Dispatched 2 x LAMP from the batch b1 for the order o1. 1 are left to be picked.\n",
    )
    assert [(row["qty"], row["dispatched_qty"], row["status"]) for row in rows] == [(3, 2, "open")]
    assert json.loads(second.stdout)["dispatched"][0]["qty"] == 1
    assert (again.exit_code, "was already dispatched" in again.stderr) == (1, True)


def test_no_pieces_are_no_dispatch(embedded: Engine) -> None:
    take(embedded, promised(1))

    ends = [run("dispatch", "o1", "--qty", qty) for qty in ("0", "-1", "two")]

    assert [ended.exit_code for ended in ends] == [2, 2, 2]
    assert told(embedded) == []


def test_a_database_that_is_away_is_one_sentence(
    embedded: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    ended = run("dispatch", "o1")

    assert ended.exit_code == 1
    assert ended.stderr.startswith("The warehouse's database can't be reached: ")
