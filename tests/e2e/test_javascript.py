"""The examples in JavaScript, by node, against the real service."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from kombu import Connection

from allocation.adapters.rabbitmq import topology
from tests.docs.blocks import Block, blocks, says
from tests.e2e.conftest import House
from tests.servers.processes import ROOT, Process
from tests.servers.programs import find_npm
from tests.waiting import eventually

EXAMPLE = ROOT / "examples" / "javascript"

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("house")]

Node = Callable[..., Process]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Path:
    """The example, in a folder of its own, with what its lock file names."""
    npm = find_npm(say)
    folder = tmp_path_factory.mktemp("javascript")
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    install = [str(npm), "ci", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def node(processes: Callable[..., Process], installed: Path, broker_url: str) -> Node:
    """Runs a script of the example, and waits for its end."""

    def run(script: str, *arguments: str) -> Process:
        command = ["node", script, *arguments]
        environment = {"BROKER_URL": broker_url}
        process = processes(command, name="node", cwd=installed, env=environment)
        process.wait(30)
        return process

    return run


def shown(script: str) -> tuple[list[str], Block]:
    """The arguments that the page gives the script, and what it says comes of it."""
    page = blocks(ROOT / "docs" / "clients-javascript.md")
    [place] = [at for at, block in enumerate(page) if f"node {script}" in block.text]
    return page[place].text.split()[1:], page[place + 1]


def test_the_scripts_do_what_the_page_says(house: House, node: Node) -> None:
    """A Celery client sends by name; plain AMQP sends, and hears each event once, and not again."""
    house.do("POST", "/v1/batches", {"batchref": "shelf-1", "sku": "RED-CHAIR", "qty": 10})
    by_celery, its_id = shown("send-by-celery.js")
    by_amqp, its_events = shown("send-and-hear.js")

    sender = node(*by_celery)
    hearer = node(*by_amqp)
    again = node("send-and-hear.js", "order-3", "RED-CHAIR", "30")

    assert (sender.returncode, hearer.returncode, again.returncode) == (0, 0, 0)
    assert says(its_id, sender.logs()), sender.logs()
    path = f"/v1/commands/{sender.logs().strip()}"
    eventually(lambda: house.ask("GET", path)[1].get("status") == "succeeded", what="the outcome")
    decided = house.ask("GET", path)[1]
    assert (decided["command"], decided["outcome"]) == (
        "allocation.allocate",
        {"status": "allocated", "batchref": "shelf-1", "eta": None},
    )
    assert says(its_events, hearer.logs()), hearer.logs()
    heard = [line for line in again.logs().splitlines() if not line.startswith("sent ")]
    assert heard == [
        'allocation.out_of_stock.v1 RED-CHAIR 4 {"orderid":"order-3","sku":"RED-CHAIR","qty":30}'
    ]


def test_a_command_that_no_queue_takes_is_an_error(broker_url: str, node: Node) -> None:
    """The broker would confirm it all the same: both scripts say that it was not sent."""
    with Connection(broker_url) as connection:
        for exchange in (topology.commands_exchange(), topology.events_exchange()):
            exchange(connection.channel()).declare()
    arguments = ("order-1", "RED-CHAIR", "3")

    ended = [node(script, *arguments) for script in ("send-by-celery.js", "send-and-hear.js")]

    assert [process.returncode for process in ended] == [1, 1]
    said = [re.findall("no queue took the command: .*|^sent .*", each.logs()) for each in ended]
    assert [set(lines) for lines in said] == [{"no queue took the command: NO_ROUTE"}] * 2
