"""What the subscribers count, read from the pages that Prometheus would read."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from aiosmtpd.controller import Controller
from kombu import Connection

from allocation.adapters.rabbitmq import topology
from tests.scraping import counted, exported, names, page
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually
from tests.workers.conftest import Warehouse, event, life, publish
from tests.workers.test_mails import Letterbox

pytestmark = pytest.mark.long

ALLOCATED = "allocation.allocated.v1"
REASONS = [("failed",), ("unreadable",), ("unknown version",)]


@pytest.fixture
def port() -> int:
    """A free one, for metrics."""
    return free_ports(1)[0]


def has_counted(port: int, name: str, expected: dict[tuple[str, ...], float]) -> None:
    """Waits until the page has these counts: a figure may come a moment after what it counts."""
    last: list[dict[tuple[str, ...], float]] = []

    def same() -> bool:
        last[:] = [counted(page(port), name)]
        return last == [expected]

    eventually(same, within=15, what=f"{name} to be {expected}, and not {last}")


def ours(text: str, name: str) -> set[str]:
    """The page's series, without those of the process itself."""
    return {series for series in names(text) if series.startswith(name)}


def test_the_warehouse_counts_its_events_by_type_and_result(
    warehouse: Warehouse, port: int
) -> None:
    """Done, known already, failed four times and set aside at the fifth; what is none by reason."""
    warehouse.environment["WAREHOUSE_METRICS_PORT"] = str(port)
    warehouse.start()
    first = event("allocated", 1, eta=None, orderid="o1", batchref="b1")
    clash = event("allocated", 1, eta=None, orderid="o2") | {
        "id": str(uuid4())
    }  # one number told twice

    warehouse.tell(first)
    has_counted(port, "warehouse_events_total", {("done", ALLOCATED): 1})
    warehouse.tell(
        first, b"{", event("allocated", 2, eta=None) | {"type": "allocation.allocated.v2"}
    )
    warehouse.tell(event("batch_created", 2), clash)

    has_counted(port, "warehouse_dead_letters_total", dict.fromkeys(REASONS, 1))
    has_counted(
        port,
        "warehouse_events_total",
        {
            ("done", ALLOCATED): 1,
            ("repeated", ALLOCATED): 1,
            ("retried", ALLOCATED): 4,
            ("dead", ALLOCATED): 1,
            ("done", "allocation.batch_created.v1"): 1,
        },
    )
    text = page(port)
    assert counted(text, "warehouse_batch_seconds_count")[()] >= 2
    assert counted(text, "warehouse_consuming") == {(): 1}
    assert "LAMP" not in text
    assert ours(text, "warehouse_") == exported()["warehouse"]


def test_the_warehouse_says_how_many_messages_wait(warehouse: Warehouse, port: int) -> None:
    """Those in the queue that it has not fetched yet; none in the end."""
    warehouse.environment["WAREHOUSE_METRICS_PORT"] = str(port)
    warehouse.tell(*life(1200))

    warehouse.start()

    waiting = eventually(
        lambda: counted(page(port), "warehouse_queue_messages").get(()), what="messages that wait"
    )
    assert 0 < waiting < 1200
    has_counted(port, "warehouse_queue_messages", {})


def test_the_warehouse_says_that_it_does_not_consume(warehouse: Warehouse, port: int) -> None:
    """Its queue is missing: it lives, and takes nothing."""
    warehouse.environment["WAREHOUSE_METRICS_PORT"] = str(port)
    process = warehouse.start()
    has_counted(port, "warehouse_consuming", {(): 1})

    with Connection(warehouse.broker_url) as connection:
        connection.channel().queue_delete("warehouse.events")
    process.wait_for_log("is not being consumed")

    has_counted(port, "warehouse_consuming", {})


def test_the_warehouse_counts_what_it_told(warehouse: Warehouse, port: int) -> None:
    warehouse.environment["WAREHOUSE_METRICS_PORT"] = str(port)
    warehouse.start()
    warehouse.tell(event("allocated", 1, eta=None, orderid="o1", batchref="b1"))
    eventually(warehouse.picks, what="the pick")

    leaving = warehouse.start_process(
        [sys.executable, "-m", "workers.warehouse", "dispatch", "o1"],
        name="dispatch",
        env=warehouse.environment,
    )

    assert leaving.wait() == 0
    has_counted(port, "warehouse_told_total", {(): 1})


@pytest.fixture
def letterbox() -> Iterator[tuple[Letterbox, int]]:
    """A mail server that listens, and its port."""
    [port] = free_ports(1)
    box = Letterbox()
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    yield box, port
    server.stop()


@pytest.fixture
def notification(
    processes: Callable[..., Process], broker_url: str, empty_database_url: str, state_dir: Path
) -> Callable[..., Process]:
    """Starts the service on RabbitMQ and PostgreSQL."""
    with Connection(broker_url) as connection:
        topology.declare(connection)
    environment = {
        "ALLOCATION_BROKER_URL": broker_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
        "NOTIFICATION_DATABASE_URL": empty_database_url,
    }

    def start(**settings: str) -> Process:
        command = [sys.executable, "-m", "workers.notification"]
        return processes(command, name="notification", env=environment | settings)

    return start


def test_the_notification_counts_mails_sent_and_refused(
    notification: Callable[..., Process],
    broker_url: str,
    letterbox: tuple[Letterbox, int],
    port: int,
) -> None:
    """Those that nobody takes for good among them."""
    box, smtp = letterbox
    notification(
        NOTIFICATION_SMTP_URL=f"smtp://127.0.0.1:{smtp}", NOTIFICATION_METRICS_PORT=str(port)
    ).wait_for_log("ready: consuming")
    tell = partial(publish, broker_url)

    tell(event("out_of_stock", 1, orderid="o1"))
    has_counted(port, "notification_mails_total", {("sent",): 1})
    box.refuse = True
    tell(event("out_of_stock", 2, orderid="o2"))

    has_counted(port, "notification_mails_total", {("sent",): 1, ("refused",): 1})
    text = page(port)
    assert counted(text, "notification_events_total") == {("done", "allocation.out_of_stock.v1"): 2}
    assert ours(text, "notification_") == exported()["notification"]


def test_a_mail_that_no_server_takes_now_is_put_off(
    notification: Callable[..., Process], broker_url: str, port: int
) -> None:
    """It is tried again, and counted each time."""
    [nobody] = free_ports(1)
    notification(
        NOTIFICATION_SMTP_URL=f"smtp://127.0.0.1:{nobody}", NOTIFICATION_METRICS_PORT=str(port)
    ).wait_for_log("ready: consuming")

    publish(broker_url, event("out_of_stock", 1, orderid="o1"))

    eventually(
        lambda: counted(page(port), "notification_mails_total").get(("put_off",), 0) > 1,
        what="two tries",
    )


@pytest.mark.parametrize("name", ["warehouse", "notification"])
def test_a_port_that_is_taken_ends_the_subscriber_with_the_settings_name(
    processes: Callable[..., Process], state_dir: Path, port: int, name: str
) -> None:
    """A second one on the same port is a mistake in the settings."""
    variable = f"{name.upper()}_METRICS_PORT"
    with closing(socket.create_server(("127.0.0.1", port))):
        process = processes(
            [sys.executable, "-m", f"workers.{name}"],
            name=name,
            env={"ALLOCATION_STATE_DIR": str(state_dir), variable: str(port)},
        )

        assert process.wait() == 1

    assert (
        f"{name}: no metrics can be served at 127.0.0.1:{port}: Address already in use;"
        f" set {variable} to another port"
    ) in process.logs()
