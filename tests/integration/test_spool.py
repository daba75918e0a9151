"""The embedded broker: many processes on one folder, none of which may lose what another sent."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Queue
from kombu.asynchronous import Hub
from kombu.exceptions import ChannelError

from allocation.adapters.spool import transport
from allocation.adapters.spool.files import Owner
from allocation.adapters.spool.transport import Transport, Unroutable
from tests.integration.spool_programs import TRANSPORT, connect, work
from tests.servers.processes import Process
from tests.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The spool folder of a test."""
    return str(tmp_path / "spool")


@pytest.fixture
def spool(folder: str) -> Iterator[Connection]:
    """A connection, with the shared queue declared."""
    with connect(folder) as connection:
        work()(connection.channel()).declare()
        yield connection


@pytest.fixture
def program(processes: Callable[..., Process], folder: str) -> Callable[..., Process]:
    """Starts one of the programs on the folder."""

    def start(name: str, *arguments: object) -> Process:
        module = [sys.executable, "-m", "tests.integration.spool_programs"]
        return processes([*module, name, folder, *map(str, arguments)], name=name)

    return start


def lines(*files: Path) -> list[str]:
    return [line for file in files if file.exists() for line in file.read_text().split()]


def get(connection: Connection, queue: str = "work", **options: Any) -> Any:
    return Queue(queue)(connection.channel()).get(**options)


def test_many_processes_lose_and_double_nothing(
    spool: Connection, program: Callable[..., Process], tmp_path: Path
) -> None:
    """Four produce, three consume, thousands of messages."""
    outputs = [tmp_path / f"out-{number}" for number in range(3)]
    for output in outputs:
        program("consume", output)
    producers = [program("produce", f"p{number}", 800) for number in range(4)]

    for producer in producers:
        assert producer.wait(60) == 0
    eventually(lambda: len(lines(*outputs)) >= 3200, within=60, what="all messages consumed")

    assert sorted(lines(*outputs)) == sorted(f"p{p}-{n}" for p in range(4) for n in range(800))


def test_the_claims_of_a_killed_consumer_come_back_though_its_child_lives_on(
    spool: Connection, program: Callable[..., Process], tmp_path: Path
) -> None:
    """A forked child has its parent's open files, and must not keep its claims."""
    output = tmp_path / "held"
    holder = program("hold", output)
    for number in range(10):
        spool.Producer().publish(str(number), exchange="work", routing_key="work")
    eventually(lambda: len(lines(output)) == 10, what="all messages claimed")

    holder.kill(group=False)

    again = eventually(lambda: get(spool), what="a claim that came back")
    assert (again.payload, again.delivery_info["redelivered"]) == ("0", True)
    assert again.headers["x-delivery-count"] == 1
    assert [get(spool).payload for _ in range(9)] == [str(number) for number in range(1, 10)]


def test_a_consumer_killed_in_the_middle_loses_nothing(
    spool: Connection, program: Callable[..., Process], tmp_path: Path
) -> None:
    """What it had in hand may come twice, and nothing else."""
    first, second = tmp_path / "first", tmp_path / "second"
    victim = program("consume", first)
    assert program("produce", "p", 1000).wait(60) == 0
    eventually(lambda: len(lines(first)) > 100, what="the consumer at work")
    victim.kill()

    program("consume", second)
    eventually(
        lambda: len(set(lines(first, second))) == 1000, within=30, what="all messages consumed"
    )

    assert len(lines(first, second)) <= 1001


def test_one_acknowledgement_covers_all_messages_of_its_channel_up_to_it(spool: Connection) -> None:
    for number in range(5):
        spool.Producer().publish(number, exchange="work", routing_key="work")
    other = get(spool)
    channel = spool.channel()
    messages = [Queue("work")(channel).get() for _ in range(3)]

    messages[1].ack(multiple=True)
    channel.close()
    other.channel.close()

    assert [get(spool, no_ack=True).payload for _ in range(3)] == [0, 3, 4]
    assert get(spool) is None


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_consumer_that_dies_while_it_acknowledges_many_loses_and_doubles_nothing(
    spool: Connection, program: Callable[..., Process], number: int
) -> None:
    for name in range(7):
        spool.Producer().publish(name, exchange="work", routing_key="work")

    died = program("acknowledge", number).wait()

    assert died == -signal.SIGKILL
    again = eventually(lambda: get(spool, no_ack=True), what="a claim that came back")
    left = [get(spool, no_ack=True).payload for _ in range(7 - number)]
    assert [again.payload, *left] == list(range(number - 1, 7))
    assert get(spool) is None


def test_an_event_loop_delivers_in_order_as_many_as_may_be_unacknowledged(
    spool: Connection,
) -> None:
    loop = Hub()
    received: list[Any] = []
    channel = spool.channel()
    for number in range(50):
        spool.Producer().publish(number, exchange="work", routing_key="work")
    spool.register_with_event_loop(loop)

    def receive(message: Any) -> None:
        received.append(message)

    def turn_until(number: int) -> list[int]:
        eventually(lambda: loop.run_once() or len(received) >= number, what=f"{number} messages")
        for _ in range(3):
            loop.run_once()
        return [message.payload for message in received]

    queue = Queue("work", no_declare=True)
    with Consumer(channel, [queue], on_message=receive, prefetch_count=20, auto_declare=False):
        first = turn_until(20)
        received[9].ack(multiple=True)
        second = turn_until(30)
        loop.close()

    assert first == list(range(20))
    assert second == list(range(30))


def test_an_event_loop_gives_each_channel_its_share(
    spool: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LONGEST_TURN", 0)
    loop = Hub()
    received: list[str] = []
    spool.channel().queue_declare("control")
    for number in range(5):
        spool.Producer().publish(f"work {number}", exchange="work", routing_key="work")
    spool.Producer().publish("control", routing_key="control")
    spool.register_with_event_loop(loop)

    def consumer(queue: str) -> Consumer:
        named = Queue(queue, no_declare=True)
        return Consumer(
            spool.channel(),
            [named],
            on_message=lambda message: received.append(message.payload),
            auto_declare=False,
        )

    with consumer("work"), consumer("control"):
        eventually(lambda: loop.run_once() or len(received) == 6, what="six messages")
        loop.close()

    assert received == ["work 0", "control", *(f"work {number}" for number in range(1, 5))]


def publish_task(connection: Connection, name: str, eta: datetime | None) -> None:
    """As Celery publishes a task that has a countdown."""
    topic = Exchange("tasks", type="topic")
    Queue("tasks", topic, routing_key="tasks")(connection.channel()).declare()
    headers = {"task": "note", "eta": None if eta is None else eta.isoformat()}
    connection.Producer().publish(name, exchange="tasks", routing_key="tasks", headers=headers)


def test_a_task_is_held_until_it_is_due_and_then_comes_before_those_that_came_later(
    folder: str,
) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    with connect(folder) as connection:
        publish_task(connection, "delayed", due)
        publish_task(connection, "in an hour", due + timedelta(hours=1))
        publish_task(connection, "at once", None)
        publish_task(connection, "long ago", datetime(2020, 1, 1, tzinfo=UTC))

    with connect(folder) as connection:
        first = [get(connection, "tasks").payload for _ in range(2)]
        assert get(connection, "tasks") is None
        last = eventually(lambda: get(connection, "tasks"), what="the delayed task")
        publish_task(connection, "later", None)
        last.requeue()

        assert first == ["at once", "long ago"]
        assert datetime.now(UTC) >= due
        assert [get(connection, "tasks").payload for _ in range(2)] == ["delayed", "later"]
        assert get(connection, "tasks") is None


@pytest.mark.parametrize("eta", ["tomorrow", "9999-12-31T00:00:00", 7])
def test_a_task_whose_time_is_not_one_that_comes_is_for_the_consumer_to_refuse(
    spool: Connection, eta: object
) -> None:
    publish_task(spool, "at once", None)
    get(spool, "tasks", no_ack=True)

    headers = {"task": "note", "eta": eta}
    spool.Producer().publish("odd", exchange="tasks", routing_key="tasks", headers=headers)

    assert get(spool, "tasks").payload == "odd"


def test_what_is_no_task_or_goes_past_the_topic_exchange_is_never_held(spool: Connection) -> None:
    """A dead letter keeps the headers of its task."""
    publish_task(spool, "at once", None)
    get(spool, "tasks", no_ack=True)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    spool.Producer().publish("a", exchange="tasks", routing_key="tasks", headers={"eta": later})
    spool.Producer().publish("b", routing_key="tasks", headers={"task": "note", "eta": later})

    assert [get(spool, "tasks").payload for _ in range(2)] == ["a", "b"]


def test_a_queue_that_is_deleted_takes_its_delayed_tasks_along(spool: Connection) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    publish_task(spool, "delayed", due)
    spool.channel().queue_delete("tasks")

    publish_task(spool, "second", due)

    assert eventually(lambda: get(spool, "tasks"), what="the second task").payload == "second"
    assert get(spool, "tasks") is None


def test_one_consumer_gets_one_producers_messages_in_order(spool: Connection) -> None:
    """By the names of the files, however many there are."""
    producer = spool.Producer()
    for number in range(300):
        producer.publish(number, exchange="work", routing_key="work")

    assert [get(spool, no_ack=True).payload for _ in range(300)] == list(range(300))


def test_a_fanout_keeps_messages_while_the_consumer_is_away(folder: str) -> None:
    """A bound queue is a folder; it needs no process."""
    news = Exchange("news", type="fanout")
    with connect(folder) as connection:
        for name in ("a", "b"):
            Queue(name, news, durable=True)(connection.channel()).declare()
    with connect(folder) as connection:
        connection.Producer().publish("hello", exchange="news")

    with connect(folder) as connection:
        assert [get(connection, name).payload for name in ("a", "b")] == ["hello", "hello"]


def test_a_mandatory_message_that_no_queue_takes_is_an_error(spool: Connection) -> None:
    """It must not vanish."""
    with pytest.raises(Unroutable):
        spool.Producer().publish("x", exchange="work", routing_key="nobody", mandatory=True)


def test_an_unknown_exchange_is_an_error(spool: Connection) -> None:
    """As RabbitMQ closes the channel."""
    with pytest.raises(ChannelError, match="no exchange 'nowhere'"):
        spool.Producer().publish("x", exchange="nowhere", routing_key="work", retry=False)


def test_an_unknown_queue_can_be_told(spool: Connection) -> None:
    """By a passive declaration."""
    with pytest.raises(ChannelError, match="no queue 'nowhere'"):
        spool.channel().queue_declare("nowhere", passive=True)


def test_a_queue_is_not_declared_twice_with_different_arguments(spool: Connection) -> None:
    """Two programs that disagree find out."""
    with pytest.raises(ChannelError, match="PRECONDITION_FAILED"):
        spool.channel().queue_declare("work", arguments={"x-delivery-limit": 3})


def test_a_rejected_message_goes_to_the_dead_letters_with_the_reason(spool: Connection) -> None:
    """As RabbitMQ writes it."""
    channel = spool.channel()
    channel.queue_declare("dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("fragile", arguments=arguments)
    spool.Producer().publish("x", routing_key="fragile")

    get(spool, "fragile").reject()

    dead = get(spool, "dead")
    assert dead.payload == "x"
    assert dead.headers["x-first-death-queue"] == "fragile"
    assert [(d["queue"], d["reason"], d["count"]) for d in dead.headers["x-death"]] == [
        ("fragile", "rejected", 1)
    ]
    assert datetime.fromisoformat(dead.headers["x-death"][0]["time"]).tzinfo == UTC
    assert get(spool, "fragile") is None


def test_a_message_delivered_too_often_is_dead_lettered(spool: Connection) -> None:
    """One that keeps killing its consumer does not do so for ever."""
    channel = spool.channel()
    channel.queue_declare("dead")
    channel.queue_declare(
        "fragile",
        arguments={
            "x-delivery-limit": 2,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "dead",
        },
    )
    spool.Producer().publish("x", routing_key="fragile")

    for _ in range(3):
        get(spool, "fragile").requeue()

    assert get(spool, "fragile") is None
    assert get(spool, "dead").headers["x-first-death-reason"] == "delivery_limit"


def test_a_message_that_can_not_be_dead_lettered_now_stops_no_other_work(
    spool: Connection, folder: str
) -> None:
    """Its queue gives nothing meanwhile, and the message is not lost."""
    channel = spool.channel()
    channel.queue_declare("dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("short-lived", arguments={"x-message-ttl": 1, **arguments})
    spool.Producer().publish("x", routing_key="short-lived")
    time.sleep(0.005)  # its millisecond has to pass, and nothing tells that it has
    [dead] = Path(folder, "queues").glob("dead*")
    dead.rename(Path(folder, "aside"))
    dead.write_text("no folder")

    assert get(spool, "short-lived") is None

    dead.unlink()
    Path(folder, "aside").rename(dead)
    assert get(spool, "short-lived") is None
    assert get(spool, "dead").payload == "x"


def test_a_requeued_message_keeps_its_place(spool: Connection) -> None:
    """Before those that came later."""
    for number in range(3):
        spool.Producer().publish(number, exchange="work", routing_key="work")

    get(spool).requeue()

    assert [get(spool).payload for _ in range(3)] == [0, 1, 2]


def test_an_expired_message_is_not_delivered(spool: Connection) -> None:
    """As Celery's control messages ask for."""
    spool.Producer().publish("old", exchange="work", routing_key="work", expiration=0.001)
    time.sleep(0.005)  # its millisecond has to pass, and nothing tells that it has
    spool.Producer().publish("new", exchange="work", routing_key="work")

    assert eventually(lambda: get(spool)).payload == "new"


def test_two_processes_that_bind_at_once_lose_no_binding(
    spool: Connection, program: Callable[..., Process]
) -> None:
    """The table is changed by one at a time."""
    binders = [program("bind", name, 30) for name in ("a", "b", "c")]

    assert [binder.wait(60) for binder in binders] == [0, 0, 0]
    assert len(spool.channel().get_table("news")) == 90


def test_the_exclusive_queue_of_a_killed_process_is_dropped(
    spool: Connection, program: Callable[..., Process]
) -> None:
    """Else its messages would pile up for ever."""
    owner = program("own")
    owner.wait_for_log("declared")
    channel = spool.channel()
    assert len(channel.get_table("news")) == 1

    owner.kill()

    eventually(
        lambda: get(spool) is None and channel.get_table("news") == [], what="the queue dropped"
    )


@pytest.mark.parametrize("left", [b"", b'{"body": ', b"\xff\xfe"])
def test_a_message_that_a_power_failure_damaged_is_set_aside(
    spool: Connection, folder: str, left: bytes
) -> None:
    for number in range(3):
        spool.Producer().publish(number, exchange="work", routing_key="work")
    _, damaged, _ = sorted(Path(folder, "queues", "work").iterdir())
    damaged.write_bytes(left)

    received = [get(spool).payload for _ in range(2)]

    assert received == [0, 2]
    assert get(spool) is None
    assert Path(folder, "damaged", "work", damaged.name).read_bytes() == left


def test_what_was_not_acknowledged_is_given_back_when_the_connection_closes(folder: str) -> None:
    """In its old place."""
    with connect(folder) as connection:
        work()(connection.channel()).declare()
        for number in range(3):
            connection.Producer().publish(number, exchange="work", routing_key="work")
        get(connection), get(connection)

    with connect(folder) as connection:
        assert [get(connection).payload for _ in range(3)] == [0, 1, 2]


def test_an_address_without_a_folder_is_an_error() -> None:
    """It says how to write one."""
    with pytest.raises(ValueError, match="spool:///absolute/folder"):
        Transport(Connection("spool://", transport=TRANSPORT))


def test_a_celery_worker_that_is_killed_under_load_loses_no_task(
    folder: str, processes: Callable[..., Process], tmp_path: Path
) -> None:
    """Real prefork workers, remote control and all."""
    output = tmp_path / "done"
    environment = {"SPOOL_FOLDER": folder, "SPOOL_OUTPUT": str(output)}
    app_name = "tests.integration.spool_app"
    command = [sys.executable, "-m", "celery", "-A", app_name, "worker", "-c2", "-lINFO"]
    worker = processes(command, name="worker", env=environment)
    worker.wait_for_log("ready")
    client = Celery(broker=f"spool://{folder}")
    client.conf.broker_transport = TRANSPORT
    assert client.control.ping(timeout=5)
    for number in range(200):
        client.send_task("note", args=[number], queue="celery")
    eventually(lambda: len(lines(output)) > 20, what="the worker at work")

    worker.kill()
    processes(command, name="worker", env=environment)

    eventually(lambda: len(set(lines(output))) == 200, within=30, what="all tasks done")
    client.close()


def test_importing_the_transport_starts_nothing(tmp_path: Path) -> None:
    """No folder, no lock, no thread."""
    subprocess.run(
        [sys.executable, "-c", "import allocation.adapters.spool.transport"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )

    assert list(tmp_path.iterdir()) == []


def test_threads_that_come_first_at_once_are_one_owner(tmp_path: Path) -> None:
    """As in Flower: of two owners the one would take the other for dead, and drop its queues."""
    folders = [tmp_path / str(number) for number in range(20)]
    together = threading.Barrier(8)

    def own(_: int) -> list[Path]:
        found = []
        for folder in folders:
            together.wait()
            found.append(Owner.of_this_process(folder).path)
        return found

    with ThreadPoolExecutor(8) as threads:
        owners = list(threads.map(own, range(8)))

    assert [owner.parent for owner in owners[0]] == folders
    assert owners == [owners[0]] * 8
    assert [list(folder.iterdir()) for folder in folders] == [[owner] for owner in owners[0]]
