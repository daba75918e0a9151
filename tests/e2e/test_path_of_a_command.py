"""Which modules carry one `POST /v1/allocations`, from the socket to the warehouse's commit."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.e2e.conftest import PROGRAMS, House, running_house
from tests.servers.databases import Databases
from tests.servers.processes import ROOT
from tests.servers.shared import Run
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually

MOST_MODULES = 30


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """The folder of the recorded calls; its file `phase` names the current phase."""
    folder = tmp_path / "calls"
    folder.mkdir()
    set_phase(folder, "start")
    return folder


@pytest.fixture
def recorded_house(
    recorded: Path,
    managed_rabbitmq: Vhosts,
    shared_postgres: Databases,
    shared_run: Run,
    tmp_path: Path,
) -> Iterator[House]:
    """A house of which every function that its processes call is recorded."""
    template = shared_run.template(shared_postgres)
    recorder = Path(__file__).with_name("recording")
    with running_house(
        *(PROGRAMS, managed_rabbitmq, shared_postgres, template, tmp_path),
        PYTHONPATH=str(recorder),
        RECORDED_CALLS=str(recorded),
    ) as house:
        yield house


def set_phase(folder: Path, name: str) -> None:
    """Begin a phase; the file is replaced, so that no process reads half of a name."""
    (folder / "next").write_text(name)
    os.replace(folder / "next", folder / "phase")


def calls(folder: Path, phase: str) -> set[tuple[str, str]]:
    """Path and function of each call of the phase, in all processes but the notification's."""
    lines = [
        line.split()
        for file in folder.glob("*.*")
        if not file.name.endswith("notification")
        for line in file.read_text().splitlines()
    ]
    return {(path, function) for at, path, function in lines if at == phase}


def test_the_path_of_a_command_is_that_of_the_page(recorded_house: House, recorded: Path) -> None:
    """What runs for the command alone is on the path or beside it; all of the path runs."""
    house = recorded_house
    batch = {"batchref": "batch-1", "sku": "LAMP", "qty": 10}
    assert house.do("POST", "/v1/batches", batch)[0] == 201
    set_phase(recorded, "idle")
    eventually(Settled(recorded), within=60, what="every process to have gone round its loop")

    set_phase(recorded, "command")
    line = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
    assert house.ask("POST", "/v1/allocations", line)[0] == 202
    warehouse = create_engine(
        house.environment["WAREHOUSE_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:")
    )

    def picked() -> bool:
        with warehouse.connect() as connection:
            return connection.scalar(text("SELECT count(*) FROM picks")) == 1

    eventually(picked, within=40, what="the warehouse's pick")
    warehouse.dispose()
    set_phase(recorded, "end")

    ran = calls(recorded, "command")
    for_the_command = {path for path, _ in ran - calls(recorded, "idle")}
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("## The path of a command\n")[2].partition("\n## ")[0]
    path = re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.M)
    beside = re.findall(r"`([\w/]+\.py)`", section.partition("Beside the path")[2])
    assert for_the_command - set(path) - set(beside) == set()
    assert set(path) - {file for file, _ in ran} == set()
    assert len(path) == len(set(path)) <= MOST_MODULES


class Settled:
    """Whether for QUIET seconds no process has called a function that it had not called before."""

    QUIET = 4.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[tuple[str, str]] = set()
        self._since = time.monotonic()

    def __call__(self) -> bool:
        called = calls(self._folder, "idle")
        if called != self._known:
            self._known, self._since = called, time.monotonic()
        return bool(called) and time.monotonic() - self._since > self.QUIET
