"""Chromium on the running service, as people have it: on a phone and a desk, light and dark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.conftest import PROCESSES
from tests.e2e.conftest import House, empty, running_house
from tests.servers.databases import Databases
from tests.servers.programs import find_chromium
from tests.servers.shared import Run
from tests.servers.vhosts import Vhosts

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
) -> Iterator[House]:
    """The processes that the pages depend on: to start them takes longer than most tests."""
    template = shared_run.template(shared_postgres)
    folder, names = tmp_path_factory.mktemp("house"), ("api", "worker", "relay")
    with running_house(names, shared_rabbitmq, shared_postgres, template, folder) as house:
        yield house


@pytest.fixture
def house(
    request: pytest.FixtureRequest, house_of_the_module: House, shared_rabbitmq: Vhosts
) -> Iterator[House]:
    """A service without stock, orders, keys and messages; its processes run since other tests."""
    started = list(house_of_the_module.processes.values())
    request.node.stash.setdefault(PROCESSES, []).append(started)
    yield house_of_the_module
    empty(house_of_the_module, shared_rabbitmq)


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
