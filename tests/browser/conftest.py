"""Chromium on the running service, as people have it: on a phone and a desk, light and dark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kombu import Connection
from playwright.sync_api import Browser, ConsoleMessage, Page
from sqlalchemy import delete, func, select

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import tables
from tests.conftest import PROCESSES
from tests.e2e.conftest import PROGRAMS, House, open_house
from tests.servers.databases import Databases
from tests.servers.processes import Processes
from tests.servers.programs import find_chromium
from tests.servers.shared import Run
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually

LOOKS = [(width, scheme) for width in (390, 1440) for scheme in ("light", "dark")]
"""Widths in pixels, each with the colours that the reader prefers."""


@dataclass
class Visit:
    """A page in the browser; `home` is the service's address."""

    page: Page
    look: str
    home: str

    def goto(self, path: str) -> Page:
        self.page.goto(self.home + path)
        return self.page


Visits = Callable[..., Iterator[Visit]]


@pytest.fixture(scope="session")
def browser_type_launch_args(say: Callable[[str], None]) -> dict[str, Any]:
    """The machine's own Chromium; root may run it only without its sandbox."""
    return {"executable_path": str(find_chromium(say)), "args": ["--no-sandbox"]}


@pytest.fixture(scope="module")
def house_of_the_module(
    shared_rabbitmq: Vhosts,
    shared_postgres: Databases,
    shared_run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[House, Processes]]:
    """The processes that the pages depend on: to start them takes longer than most tests."""
    folder = tmp_path_factory.mktemp("house")
    broker_url = shared_rabbitmq.create_vhost()
    database_url = shared_postgres.create_database(shared_run.template(shared_postgres))
    processes = Processes(folder)
    try:
        house = open_house(
            processes.start, ("api", "worker", "relay"), broker_url, database_url, folder
        )
        yield house, processes
        house.engine.dispose()
    finally:
        processes.stop()
        shared_postgres.drop_database(database_url)
        shared_rabbitmq.delete_vhost(broker_url)


@pytest.fixture
def house(
    request: pytest.FixtureRequest, house_of_the_module: tuple[House, Processes]
) -> Iterator[House]:
    """A service without stock, orders, keys and messages; its processes run since other tests."""
    house, processes = house_of_the_module
    request.node.stash[PROCESSES] = processes.started
    yield house
    _empty(house)


def _empty(house: House) -> None:
    """Wait until everything is decided and published, then delete it, with the keys."""
    commands, outbox = tables.commands, tables.outbox
    unfinished = (
        select(func.count()).select_from(commands).where(commands.c.status == "pending"),
        select(func.count()).select_from(outbox).where(outbox.c.sent_at.is_(None)),
    )

    def finished() -> bool:
        with house.engine.connect() as connection:
            return [connection.scalar(count) for count in unfinished] == [0, 0]

    eventually(finished, within=20, what="everything decided and published")
    with Connection(house.broker_url) as connection:
        channel = connection.channel()
        for name in topology.names():
            channel.queue_purge(name)
    with house.engine.begin() as transaction:
        had_keys = transaction.scalar(select(func.count()).select_from(tables.api_keys))
        for table in reversed(tables.metadata.sorted_tables):
            transaction.execute(delete(table))
    if had_keys:  # once there was a key, the API asks for one until its end
        api = house.processes["api"]
        api.stop()
        api.start().wait_for_log(PROGRAMS["api"][1], within=40)


@pytest.fixture
def visits(browser: Browser, house: House) -> Iterator[Visits]:
    """Makes a visit in each look, one after the other: a browser must never complain.

    But of what has one of the texts `ignoring` in it.
    """
    complaints: list[str] = []

    def each_look(*ignoring: str) -> Iterator[Visit]:
        for width, scheme in LOOKS:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.on("console", lambda message: _note(complaints, message, ignoring))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            yield Visit(page, f"{width}-{scheme}", f"http://127.0.0.1:{house.port}")
            context.close()

    yield each_look
    assert complaints == []


def _note(complaints: list[str], message: ConsoleMessage, ignoring: tuple[str, ...]) -> None:
    is_known = any(text in message.text for text in ignoring)
    if message.type in ("error", "warning") and not is_known:
        complaints.append(f"{message.type}: {message.text} at {message.location}")
