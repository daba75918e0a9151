"""`python -m workers.warehouse picks`: the pick list for people and for programs."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.resequencer import Resequencer
from tests.workers.conftest import envelope
from workers.warehouse import pick_list, tables
from workers.warehouse.__main__ import app
from workers.warehouse.running import open_database
from workers.warehouse.settings import Settings

LONG = "order-" + "x" * 249


@pytest.fixture(autouse=True)
def state_folder(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded default: SQLite in a folder of the test's own."""
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))
    monkeypatch.delenv("WAREHOUSE_DATABASE_URL", raising=False)


def take(*events: Envelope) -> None:
    engine = open_database(Settings())
    inbox = Resequencer(engine, tables.metadata, pick_list.apply, timedelta(seconds=60))
    for event in events:
        inbox.take([event])
    engine.dispose()


def show(*arguments: str) -> str:
    shown = CliRunner().invoke(app, ["picks", *arguments], catch_exceptions=False)
    assert shown.exit_code == 0
    return shown.stdout


def table(*arguments: str) -> list[list[str]]:
    return [line.split() for line in show(*arguments).splitlines()]


def test_the_picks_are_a_table_in_the_order_in_which_they_were_opened() -> None:
    """Cancelled ones too."""
    take(
        envelope("allocated", 1, eta=None, orderid="o2", batchref="b1", qty=3),
        envelope("allocated", 2, eta=None, orderid="o1", batchref="b1", qty=4),
        envelope("deallocated", 3, orderid="o2", batchref="b1"),
    )

    assert table() == [
        ["orderid", "sku", "part", "qty", "dispatched_qty", "batchref", "eta", "status"],
        ["o2", "LAMP", "0", "3", "0", "b1", "cancelled"],
        ["o1", "LAMP", "0", "4", "0", "b1", "open"],
    ]


def test_programs_read_json() -> None:
    """With the sequences of the events that opened and closed the pick."""
    take(
        envelope("allocated", 1, eta=None, orderid="o1", batchref="b1", qty=3),
        envelope("deallocated", 2, orderid="o1", batchref="b1"),
    )

    assert json.loads(show("--json")) == [
        {
            "orderid": "o1",
            "sku": "LAMP",
            "part": 0,
            "qty": 3,
            "dispatched_qty": 0,
            "batchref": "b1",
            "eta": None,
            "status": "cancelled",
            "opened_sequence": 1,
            "closed_sequence": 2,
        }
    ]


def test_goods_that_have_not_arrived_are_expected_on_their_day() -> None:
    line: dict[str, Any] = {"orderid": "o1", "batchref": "ship", "qty": 3}
    take(envelope("allocated", 1, eta="2030-01-31", **line))
    before = table()[1]
    take(envelope("promise_changed", 2, old_eta="2030-01-31", new_eta="2030-02-15", **line))
    later = [(pick["status"], pick["eta"]) for pick in json.loads(show("--json"))]
    take(envelope("promise_changed", 3, old_eta="2030-02-15", new_eta=None, **line))

    assert before == ["o1", "LAMP", "0", "3", "0", "ship", "2030-01-31", "expected"]
    assert later == [("expected", "2030-02-15")]
    assert table()[1] == ["o1", "LAMP", "0", "3", "0", "ship", "open"]


def test_the_picks_of_one_order_are_shown_alone() -> None:
    """As a table and as JSON."""
    take(
        envelope("allocated", 1, eta=None, orderid="o1"),
        envelope("allocated", 2, eta=None, orderid="o2"),
    )

    assert [line[0] for line in table("--orderid", "o2")] == ["orderid", "o2"]
    assert [pick["orderid"] for pick in json.loads(show("--json", "--orderid", "o2"))] == ["o2"]


def test_an_empty_list_says_so_to_people_and_is_an_empty_array_to_programs() -> None:
    """Before the first event."""
    assert "The pick list is empty" in show()
    assert "The pick list has no pick for the order o1" in show("--orderid", "o1")
    assert json.loads(show("--json")) == []


@pytest.mark.parametrize("orderid", ["o[/]", "[red]o1", ":smile:", LONG])
def test_any_order_is_shown_letter_by_letter(orderid: str) -> None:
    """However it looks, and in one piece."""
    take(envelope("allocated", 1, eta=None, orderid=orderid))

    assert table()[1][0] == orderid
    assert json.loads(show("--json"))[0]["orderid"] == orderid
