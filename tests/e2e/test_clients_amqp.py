"""The page for any language: its lines send a command and hear the event, without Celery."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kombu import Connection

from tests.docs.blocks import blocks
from tests.e2e.conftest import House
from tests.servers.processes import ROOT, Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

ADDRESS = '"127.0.0.1:5672", "guest", "guest"'

Program = Callable[..., Process]


@pytest.fixture
def program(processes: Callable[..., Process], broker_url: str, tmp_path: Path) -> Program:
    """Starts the page's block with these words, elsewhere than in the project."""
    broker = Connection(broker_url)
    here = (
        f'"{broker.hostname}:{broker.port}", "{broker.userid}", "{broker.password}",'
        f' virtual_host="{broker.virtual_host}"'
    )

    def start(words: str) -> Process:
        page = blocks(ROOT / "docs" / "clients-amqp.md")
        [lines] = [block.text for block in page if words in block.text]
        assert ADDRESS in lines
        script = tmp_path / f"{words}.py"
        script.write_text(lines.replace(ADDRESS, here))
        return processes(["python", script], name=words, cwd=tmp_path)

    return start


def test_the_lines_send_a_command_and_hear_what_came_of_it(house: House, program: Program) -> None:
    """With two headers and no library of Celery's."""
    hearing = program("drain_events")
    hearing.wait_for_log("listening")
    house.do("POST", "/v1/batches", {"batchref": "b1", "sku": "RED-CHAIR", "qty": 10})

    sending = program("basic_publish_confirm")

    assert sending.wait() == 0, sending.logs()
    told = hearing.wait_for_log(r"allocation\.allocated\.v1 RED-CHAIR (\d+) (.*)")
    assert (told[1], json.loads(told[2])) == (
        "2",
        {
            "orderid": "order-1",
            "sku": "RED-CHAIR",
            "qty": 3,
            "batchref": "b1",
            "eta": None,
            "customer": None,
        },
    )
    path = f"/v1/commands/{sending.logs().split()[1]}"
    eventually(lambda: house.ask("GET", path)[1].get("status") == "succeeded", what="the outcome")
    assert house.run("-m", "allocation", "dead", "list").logs() == (
        "There are no such dead letters.\n"
    )


def test_the_lines_fail_where_no_queue_takes_the_command(broker_url: str, program: Program) -> None:
    """The broker would confirm it all the same."""
    with Connection(broker_url) as connection:
        connection.default_channel.exchange_declare("allocation.commands", "topic", durable=True)

    sending = program("basic_publish_confirm")

    assert sending.wait() == 1
    assert "Basic.return: (312) NO_ROUTE" in sending.logs()
    assert "sent" not in sending.logs()
