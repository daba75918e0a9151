"""A real full disk under the embedded default: it waits, loses nothing, and goes on by itself."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Queue

from allocation.adapters.rabbitmq import topology
from allocation.adapters.spool.files import Files
from allocation.messaging.connection import SPOOL_TRANSPORT
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

SIZE = 32 * 2**20
Start = Callable[..., Process]


class Disk:
    """A small disk of its own, which can be filled to the last byte and freed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling = folder / "filling"

    def fill(self) -> None:
        block = bytes(2**16)
        with self._filling.open("ab", buffering=0) as file:
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self) -> None:
        self._filling.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert mounted.returncode == 0, (
        "this test mounts a small tmpfs to fill it: it has to run as root, in a container with"
        f" the capability SYS_ADMIN ({mounted.stderr.strip()})"
    )
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


class Service:
    """`allocation up`, and the commands that it accepted."""

    def __init__(self, port: int, state_dir: Path, database: Path, process: Process) -> None:
        self.port = port
        self.state_dir = state_dir
        self.database = database
        self.process = process
        self.accepted: list[str] = []
        eventually(lambda: self._status("GET", "/readyz") == 200, within=90, what="the API ready")
        process.wait_for_log("ready: consuming notification", within=90)
        process.wait_for_log("celery@.* ready", within=90)

    def post(self, path: str, body: object) -> int:
        """The status of the answer; the command counts as accepted with 202."""
        return self._status("POST", path, body)

    def order(self) -> int:
        number = len(self.accepted)
        line = {"orderid": f"order-{number}", "sku": "LAMP", "qty": 1}
        return self.post("/v1/allocations", line)

    def all_decided(self) -> bool:
        rows = self._rows("SELECT id, status FROM commands")
        decided = {row[0] for row in rows if row[1] in ("succeeded", "rejected")}
        return decided >= {accepted.replace("-", "") for accepted in self.accepted}

    @contextmanager
    def relay_frozen(self) -> Iterator[None]:
        """While the block lasts, what is accepted stays in the outbox."""
        relay = next(
            pid
            for pid in self.process.children()
            if b"\0relay\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(relay, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(relay, signal.SIGCONT)

    def lines(self) -> set[tuple[str, str]]:
        return set(self._rows("SELECT orderid, batchref FROM allocations"))

    def picks(self) -> set[tuple[str, str]]:
        with closing(sqlite3.connect(self.state_dir / "warehouse.db")) as connection:
            return set(connection.execute("SELECT orderid, batchref FROM picks"))

    def dead_letters(self) -> dict[str, int | None]:
        url = f"spool://{self.state_dir}/spool"
        with Connection(url, transport=SPOOL_TRANSPORT) as connection:
            return {name: topology.depth(connection, name) for name in topology.dead_queues()}

    def _status(self, method: str, path: str, body: object = None) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                told: dict[str, Any] = json.load(answer)
                if answer.status == 202:
                    self.accepted.append(told["id"])
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def _rows(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            return connection.execute(statement).fetchall()


def start(processes: Start, state_dir: Path, **changes: str) -> Service:
    port, flower = free_ports(2)
    environment = {
        "ALLOCATION_STATE_DIR": str(state_dir),
        "ALLOCATION_PORT": str(port),
        "ALLOCATION_FLOWER_PORT": str(flower),
        "ALLOCATION_API_WORKERS": "1",
        "ALLOCATION_RESEND_AFTER": "3600",  # what is decided was never lost
    } | changes
    command = [sys.executable, "-m", "allocation", "up"]
    process = processes(command, name="up", env=environment)
    url = changes.get("ALLOCATION_DATABASE_URL", f"sqlite:///{state_dir}/allocation.db")
    return Service(port, state_dir, Path(url.removeprefix("sqlite:///")), process)


def test_everything_goes_on_by_itself_once_a_full_disk_has_space_again(
    disk: Disk, processes: Start
) -> None:
    service = start(processes, disk.folder / "state")
    service.post("/v1/batches", {"batchref": "b1", "sku": "LAMP", "qty": 1000})
    with service.relay_frozen():
        while len(service.accepted) < 40:
            assert service.order() == 202

        disk.fill()

        refused = 0
        while refused < 5:
            answer = service.order()
            assert answer in (202, 503)
            refused += answer == 503
    service.process.wait_for_log("worker .*the disk is full: nothing is delivered", within=60)
    looks = service.process.logs().count("the relay pauses")
    eventually(
        lambda: service.process.logs().count("the relay pauses") >= looks + 2,
        within=60,
        what="the relay trying again",
    )
    assert service.process.running
    disk.free()
    eventually(lambda: service.order() == 202, within=60, what="an order accepted again")

    eventually(service.all_decided, within=60, what="each accepted command decided")
    eventually(lambda: service.picks() == service.lines(), within=60, what="each event arrived")
    assert set(service.dead_letters().values()) == {0}
    assert service.process.stop() == 0


def test_a_full_disk_of_the_database_alone_costs_no_command_a_delivery(
    disk: Disk, processes: Start, state_dir: Path
) -> None:
    database = f"sqlite:///{disk.folder}/allocation.db"
    service = start(processes, state_dir, ALLOCATION_DATABASE_URL=database)
    service.post("/v1/batches", {"batchref": "b1", "sku": "LAMP", "qty": 1000})
    eventually(service.all_decided, within=60, what="the batch")
    disk.fill()
    url = f"spool://{state_dir}/spool"
    with Connection(url, transport=SPOOL_TRANSPORT) as connection:
        client = Celery(broker=url)
        client.conf.broker_transport = SPOOL_TRANSPORT
        sent = client.send_task(
            "allocation.allocate",
            kwargs={"orderid": "order-1", "sku": "LAMP", "qty": 1},
            exchange="allocation.commands",
            routing_key="allocation.commands",
            connection=connection,
        )

    said = "the command can't be decided now; it will be retried"
    # More often than the queue allows deliveries.
    eventually(lambda: service.process.logs().count(said) > 21, within=90, what="22 tries")
    disk.free()

    service.accepted.append(str(sent.id))
    eventually(service.all_decided, within=60, what="the command decided")
    assert set(service.dead_letters().values()) == {0}


def test_a_message_that_can_not_be_written_is_an_error_and_leaves_no_part_of_it(
    disk: Disk,
) -> None:
    files = Files(disk.folder)
    files.make_queue("work", {}, exclusive=False)
    disk.fill()

    with pytest.raises(OSError, match="No space left"):
        files.put("work", {"body": "x" * os.sysconf("SC_PAGE_SIZE")})

    assert files.size("work") == 0
    assert list((disk.folder / "tmp").iterdir()) == []


def test_what_a_living_consumer_returns_counts_as_no_delivery(disk: Disk) -> None:
    url = f"spool://{disk.folder}"
    for _ in range(2):
        with Connection(url, transport=SPOOL_TRANSPORT) as connection:
            queue = Queue("work")(connection.channel())
            queue.declare()
            connection.Producer().publish("a", routing_key="work")
            message = queue.get()
            assert message is not None
            assert "x-delivery-count" not in message.headers


def test_consumers_get_nothing_while_the_disk_is_full_and_people_may_look(disk: Disk) -> None:
    taken: list[str] = []
    with Connection(f"spool://{disk.folder}", transport=SPOOL_TRANSPORT) as connection:
        queue = Queue("work")(connection.channel())
        queue.declare()
        connection.Producer().publish("a", routing_key="work")
        disk.fill()

        def drain() -> list[str]:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
            return taken

        with connection.Consumer(queue, callbacks=[lambda body, _: taken.append(body)]):
            assert drain() == []
            looked = queue.get()
            assert looked is not None
            looked.reject(requeue=True)
            disk.free()

            assert eventually(drain, what="the message") == ["a"]
