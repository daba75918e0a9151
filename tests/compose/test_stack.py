"""The deployed system: the story, restarts and kills under traffic, lasting data, clear errors."""

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.compose.conftest import LASTING, Stack, mails
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(900)


def test_the_chapters_story_through_the_published_ports(stack: Stack) -> None:
    """The mail in mailpit, the pick in the warehouse's database, the task in Flower's API."""
    assert stack.ask("POST", "/v1/batches", {"batchref": "b1", "sku": "LAMP", "qty": 10})[0] == 201
    later = {"batchref": "b2", "sku": "LAMP", "qty": 10, "eta": "2030-01-01"}
    assert stack.ask("POST", "/v1/batches", later)[0] == 201
    status, answer = stack.ask(
        "POST", "/v1/allocations", {"orderid": "order-1", "sku": "LAMP", "qty": 8}
    )
    assert (status, answer["batchref"]) == (201, "b1")

    assert stack.ask("PATCH", "/v1/batches/b1", {"qty": 5})[0] == 200

    def batch() -> Any:
        return stack.ask("GET", "/v1/allocations/order-1")[1]["lines"][0]["batchref"]

    eventually(lambda: batch() == "b2", within=20, what="the order on the later batch")
    eventually(lambda: "Order order-1 moved to batch b2" in mails(), within=20, what="the mail")
    picks = "SELECT batchref, status FROM picks ORDER BY opened_sequence"
    expected = ["b1|cancelled", "b2|open"]
    eventually(lambda: stack.sql("warehouse", picks).split() == expected, what="the picks")

    def seen_by_flower() -> bool:
        tasks = stack.flower("/api/tasks").values()
        return any(
            (task["name"], task["state"]) == ("allocation.change_batch_quantity", "SUCCESS")
            and "b1" in task["kwargs"]
            for task in tasks
        )

    eventually(seen_by_flower, within=20, what="the task in Flower")


def test_flower_asks_who_looks(stack: Stack) -> None:
    """Without the login there is nothing to see."""
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen("http://127.0.0.1:5555/api/workers", timeout=20)


def test_no_service_reads_anothers_database(stack: Stack) -> None:
    """Each user may connect to its own database alone."""
    for service, other in (("warehouse", "allocation"), ("notification", "warehouse")):
        password = stack.secrets[f"{service.upper()}_DATABASE_PASSWORD"]
        address = f"postgresql://{service}:{password}@127.0.0.1/{other}"
        refused = stack.compose(
            "exec", "-T", "postgres", "psql", address, "-c", "SELECT 1", check=False
        )
        assert "permission denied for database" in refused.stderr


def test_the_processes_are_nobody_special_and_write_nowhere(stack: Stack) -> None:
    """No root, no compiler, a read-only root."""
    who = stack.compose("exec", "-T", "relay", "id", "-u").stdout.strip()
    write = stack.compose("exec", "-T", "relay", "touch", "/opt/x", check=False)

    assert who != "0"
    assert "Read-only file system" in write.stderr


@contextmanager
def traffic(stack: Stack, name: str) -> Iterator[list[str]]:
    """Orders that keep coming over HTTP meanwhile; the ids of those that were accepted."""
    accepted: list[str] = []
    stop = threading.Event()

    def order() -> None:
        number = 0
        while not stop.is_set():
            orderid = f"{name}-{number}"
            body = {"orderid": orderid, "sku": "CHAIR", "qty": 1}
            if stack.ask("POST", "/v1/allocations", body)[0] in (200, 201, 202):
                accepted.append(orderid)
                number += 1
            time.sleep(0.05)  # the traffic's pace

    thread = threading.Thread(target=order)
    thread.start()
    try:
        yield accepted
    finally:
        stop.set()
        thread.join()


def faults() -> dict[str, Callable[[Stack, str], object]]:
    return {
        "restart": lambda stack, service: stack.compose("restart", service),
        "SIGKILL": lambda stack, service: _kill(stack.container(service)),
    }


def _kill(container: str) -> None:
    # From the host: what the engine's own kill ends, it does not restart.
    [state] = json.loads(
        subprocess.run(
            ["docker", "inspect", container], capture_output=True, text=True, check=True
        ).stdout
    )
    subprocess.run(["kill", "-s", "SIGKILL", str(state["State"]["Pid"])], check=True)


@pytest.mark.parametrize("fault", faults())
def test_every_service_in_turn_may_fail_under_traffic(stack: Stack, fault: str) -> None:
    """All comes back by itself, the books hold, and nothing that was accepted is missing."""
    batch = {"batchref": f"much-{fault}", "sku": "CHAIR", "qty": 1_000_000}
    eventually(lambda: stack.ask("POST", "/v1/batches", batch)[0] == 201, within=30)
    with traffic(stack, fault) as accepted:
        for service in LASTING:
            eventually(lambda: len(accepted) % 20 == 19, within=60, what="traffic")
            before = len(accepted)
            faults()[fault](stack, service)
            stack.wait_until_healthy()
            eventually(lambda: len(accepted) > before + 5, within=60, what="traffic again")  # noqa: B023

    def open_commands() -> str:
        query = "SELECT count(*) FROM commands WHERE status = 'pending'"
        return stack.sql("allocation", query).strip()

    eventually(lambda: open_commands() == "0", within=90, what="every command decided")
    query = f"SELECT orderid FROM allocations WHERE orderid LIKE '{fault}-%'"
    assert set(accepted) - set(stack.sql("allocation", query).split()) == set()
    unsent = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
    eventually(lambda: stack.sql("allocation", unsent).strip() == "0", within=30, what="all sent")
    picks = f"SELECT count(*) FROM picks WHERE orderid LIKE '{fault}-%' AND status = 'open'"
    eventually(
        lambda: int(stack.sql("warehouse", picks)) >= len(accepted), within=60, what="every pick"
    )
    assert stack.compose("exec", "-T", "relay", "allocation", "check").returncode == 0


def test_three_workers_share_the_work(stack: Stack) -> None:
    """By one option, and back."""
    stack.compose("up", "--detach", "--scale", "allocation-worker=3")
    eventually(
        lambda: stack.states()["allocation-worker"] == ["healthy"] * 3, within=90, what="three"
    )

    eventually(lambda: len(stack.flower("/api/workers?refresh=1")) >= 3, within=30, what="Flower")
    stack.compose("up", "--detach", "--scale", "allocation-worker=1")


def test_data_survive_down_and_up(stack: Stack) -> None:
    """Databases and queues are in named volumes."""
    batch = {"batchref": "lasting", "sku": "TABLE", "qty": 5}
    assert stack.ask("POST", "/v1/batches", batch)[0] == 201

    stack.compose("down")
    stack.compose("up", "--detach")
    stack.wait_until_healthy()

    assert stack.ask("GET", "/v1/batches/lasting")[0] == 200
    order = {"orderid": "after", "sku": "TABLE", "qty": 1}
    assert stack.ask("POST", "/v1/allocations", order)[0] == 201


def test_a_missing_secret_is_one_clear_error(stack: Stack) -> None:
    """Before anything is started."""
    poor = Stack("allocation-poor")
    poor.secrets["RABBITMQ_PASSWORD"] = ""

    refused = poor.compose("up", "--detach", check=False)

    assert refused.returncode != 0
    assert "RABBITMQ_PASSWORD" in refused.stderr
    assert "set it in .env" in refused.stderr


def test_a_wrong_password_is_one_clear_error_and_nothing_looks_well(stack: Stack) -> None:
    """The one-shot that prepares the database says so, and nothing that needs it starts."""
    right = stack.secrets["ALLOCATION_DATABASE_PASSWORD"]
    stack.compose("stop", "api", "allocation-worker", "relay", "flower")
    stack.compose("rm", "-f", "api", "allocation-worker", "relay", "flower", "migrate")
    stack.secrets["ALLOCATION_DATABASE_PASSWORD"] = "wrong"
    try:
        failed = stack.compose("up", "--detach", "--no-deps", "migrate", check=False)

        def said() -> str:
            return stack.compose("logs", "migrate").stdout + failed.stderr

        eventually(lambda: "password authentication failed" in said(), what="the clear error")
        assert "Traceback" not in said()
        assert stack.compose("up", "--detach", "api", check=False).returncode != 0
        assert stack.states().get("api", ["exited"]) != ["healthy"]
    finally:
        stack.secrets["ALLOCATION_DATABASE_PASSWORD"] = right
        stack.compose("up", "--detach")
        stack.wait_until_healthy()


def test_down_with_volumes_leaves_nothing_behind(stack: Stack) -> None:
    """No container, no volume, no network."""
    stack.compose("down", "--volumes", "--remove-orphans")

    for what in ("container", "volume", "network"):
        listing = ["docker", what, "ls", "--quiet", "--filter", f"name={stack.name}"]
        left = subprocess.run(listing, capture_output=True, text=True, check=True)
        assert left.stdout == ""
