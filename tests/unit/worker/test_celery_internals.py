"""The private parts of Celery are there, in the installed version, with the shape that we rely on.

A test that fails here after an upgrade names the part; `celery_internals.py` says what it is for.
"""

import ast
import inspect
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from billiard.pool import Pool
from celery import Celery
from celery.app import trace as tracer
from celery.app.events import Events as CeleryEvents
from celery.concurrency.base import BasePool
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import WorkerShutdown
from celery.utils.quorum_queues import detect_quorum_queues
from celery.worker import state, strategy
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from celery.worker.request import Request as CeleryRequest
from kombu.asynchronous import Hub
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.connection import resolve_aliases
from kombu.message import Message
from kombu.transport import TRANSPORT_ALIASES, resolve_transport
from kombu.transport.pyamqp import Transport

from allocation.entrypoints.worker import celery_internals as internals
from allocation.entrypoints.worker.app import app
from allocation.entrypoints.worker.executor import Call
from tests.celery_messages import GOOD_BODY, celery_headers
from tests.servers.processes import ROOT


def arguments(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (CeleryRequest.on_accepted, ["self", "pid", "time_accepted"]),
        (CeleryRequest.on_timeout, ["self", "soft", "timeout"]),
        (CeleryRequest.on_success, ["self", "failed__retval__runtime", "kwargs"]),
        (CeleryRequest.on_failure, ["self", "exc_info", "send_failed_event", "return_ok"]),
        (CeleryRequest.reject, ["self", "requeue"]),
        (CeleryRequest.acknowledge, ["self"]),
        (CeleryRequest.maybe_expire, ["self"]),
        (CeleryRequest.revoked, ["self"]),
        (CeleryRequest._announce_revoked, ["self", "reason", "terminated", "signum", "expired"]),
        (CeleryConsumer.create_task_handler, ["self", "promise"]),
        (CeleryConsumer.call_soon_ack, ["self", "p", "args", "kwargs"]),
        (CeleryConsumer.on_decode_error, ["self", "message", "exc"]),
        (CeleryConsumer.on_send_event_buffered, ["self"]),
        (CeleryConsumer._flush_events, ["self"]),
        (CeleryConsumer.on_close, ["self"]),
        (CeleryConsumer.on_ready, ["self"]),
        (CeleryConsumer.connect, ["self"]),
        (CeleryConsumer.ensure_connected, ["self", "conn"]),
        (CeleryConsumer.Blueprint.claim_steps, ["self"]),
        (detect_quorum_queues, ["app", "driver_type"]),
        (LaxBoundedSemaphore.acquire, ["self", "callback", "partial_args", "partial_kwargs"]),
        (LaxBoundedSemaphore.release, ["self"]),
        (Hub.call_soon, ["self", "callback", "args"]),
        (Hub.call_later, ["self", "delay", "callback", "args"]),
        (Hub.add_reader, ["self", "fds", "callback", "args"]),
        (Transport.register_with_event_loop, ["self", "connection", "loop"]),
        (BasePool.apply_async, ["self", "target", "args", "kwargs", "options"]),
    ],
)
def test_celery_has_the_part_with_these_arguments(
    function: Callable[..., object], expected: list[str]
) -> None:
    assert arguments(function) == expected


def test_these_parts_take_their_first_arguments_in_this_order() -> None:
    trace = ["task", "uuid", "request", "body", "content_type", "content_encoding"]

    assert arguments(tracer.fast_trace_task)[:6] == trace
    assert arguments(EventDispatcher._publish)[:4] == ["self", "event", "producer", "routing_key"]


@pytest.mark.parametrize(
    ("function", "called"),
    [
        # Who calls our hooks: were one of these gone, the hook would be passed by in silence.
        (CeleryConsumer.create_task_handler, "self.call_soon_ack"),
        (CeleryConsumer.create_task_handler, "message.ack_log_error"),
        (strategy.default, "consumer.on_task_request"),
        (strategy.default, "symbol_by_name(task.Request)"),
        (CeleryRequest.on_failure, "self._announce_revoked("),
        (CeleryRequest.on_failure, "self.reject(requeue="),
        (CeleryRequest.revoked, "self.maybe_expire()"),
        (CeleryRequest.revoked, "self._announce_revoked("),
        (CeleryRequest.terminate, "self._apply_result()"),
        (CeleryRequest.maybe_expire, "revoked_tasks.add(self.id)"),
        (CeleryRequest._announce_revoked, "self.acknowledge()"),
        (EventDispatcher.publish, "self._publish("),
        (EventDispatcher.flush, "self._publish("),
        (CeleryConsumer.connect, "conn.transport.register_with_event_loop("),
        (Transport.register_with_event_loop, "loop.add_reader(connection.sock"),
    ],
)
def test_celery_calls_the_hook(function: Callable[..., object], called: str) -> None:
    assert called in inspect.getsource(function)


def imported(file: Path) -> set[str]:
    """The modules that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{each.name}" for each in node.names)}
    return found


def test_no_other_module_of_an_entry_point_imports_private_parts_of_celery() -> None:
    private = re.compile(r"billiard|celery\.(worker|app|concurrency|events|utils|bootsteps)\b")
    files = (ROOT / "allocation" / "entrypoints").rglob("*.py")

    importing = {file.stem for file in files if any(map(private.match, imported(file)))}

    assert importing == {"celery_internals"}


def test_the_step_that_declares_delayed_queues_is_left_out_and_all_others_stay() -> None:
    def steps(consumer: type[CeleryConsumer]) -> set[str]:
        return set(consumer.Blueprint(steps=[]).claim_steps())

    assert steps(CeleryConsumer) - steps(internals.Consumer) == {DelayedDelivery.name}


def request(**headers: object) -> Any:
    """A request of a task, as Celery makes it of a message; its failures are recorded."""
    message = Message(
        GOOD_BODY,
        accept={"application/json"},
        headers=celery_headers(**headers),  # type: ignore[arg-type]
        content_type="application/json",
        content_encoding="utf-8",
        delivery_tag=1,
    )
    return internals.Request(message, app=app, task=Task(), on_ack=lambda *_: None)


class Backend:
    """Celery's, which records nothing of ignored results."""

    def mark_as_revoked(self, *_: object, **__: object) -> None: ...

    mark_as_failure = mark_as_revoked


class Recorded:
    """Stands for `Failures`, and records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def rejected(self, _delivery: object, failure: Any, requeue: bool) -> None:
        self.asked.append(("rejected", failure.exception, requeue))

    def revoked(self, _delivery: object, reason: str) -> None:
        self.asked.append(("revoked", reason))


class Task:
    """As Celery's request sees it."""

    name = "allocation.allocate"
    ignore_result = acks_late = reject_on_worker_lost = True
    acks_on_failure = acks_on_timeout = retry_on_worker_lost = False
    send_events = store_errors_even_if_ignored = False

    def __init__(self) -> None:
        self.failures = Recorded()
        self.backend = Backend()


def info(error: BaseException) -> ExceptionInfo:
    """As a process of the pool sends it."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def test_a_request_gives_batching_and_the_executor_what_they_read() -> None:
    made = request(timelimit=[20, 10])

    assert made.kwargs == {"orderid": "o", "sku": "LAMP", "qty": 1}
    assert made.request_dict["args"] == []
    assert (made.type, made.time_limits) == ("allocation.allocate", [20, 10])
    assert (made._already_revoked, made._already_cancelled) == (False, False)


def test_a_failure_is_settled_by_the_tasks_failures_with_its_exception() -> None:
    made, broken = request(), ValueError("broken")

    made.on_success((1, info(broken), 0.1))

    assert made.task.failures.asked == [("rejected", broken, False)]


def test_a_request_of_a_lost_process_is_to_be_requeued() -> None:
    made, lost = request(), WorkerLostError("killed")

    made.on_failure(info(lost))

    assert made.task.failures.asked == [("rejected", lost, True)]


def test_an_expired_request_is_settled_and_not_remembered_as_revoked() -> None:
    made = request(expires="2020-01-01T00:00:00+00:00")

    assert made.revoked()
    assert made.task.failures.asked == [("revoked", "expired")]
    assert made.id not in state.revoked


def test_a_terminated_request_is_revoked_and_the_others_of_its_batch_are_lost() -> None:
    meant, other = request(), request()
    meant._already_revoked = True
    terminated = info(Terminated("SIGKILL"))

    assert internals._as_of(meant, terminated) is terminated
    assert isinstance(internals._as_of(other, terminated).exception.exc, WorkerLostError)


def test_the_exception_of_a_failure_is_read_out_of_its_wrapping() -> None:
    broken = ValueError("broken")
    wrapped = info(broken)

    assert isinstance(wrapped.exception, ExceptionWithTraceback)
    assert internals._read(wrapped).exception is broken
    assert "ValueError: broken" in internals._read(wrapped).traceback
    assert internals._read(None).exception is None


def test_the_tracer_runs_the_task_with_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    celery = Celery("traced", set_as_current=False)

    @celery.task(name="double", bind=True)
    def double(self: Any, number: int) -> int:
        return 2 * number + int(self.request.extra)

    # A worker's process does this when it begins.
    double.__trace__ = tracer.build_tracer("double", double, app=celery)
    monkeypatch.setattr(tracer, "_localized", [celery.tasks, {"application/json"}, "here"])
    request = {"args": [], "kwargs": {"number": 4}, "extra": 1}

    traced = internals.trace(Call("double", "id", request))

    assert traced[:2] == (0, "9")


def test_a_wait_ends_with_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    internals.wait_or_stop(0)
    monkeypatch.setattr(state, "should_stop", os.EX_OK)

    with pytest.raises(WorkerShutdown):
        internals.wait_or_stop(60)


def test_urls_of_the_embedded_broker_are_known_to_kombu() -> None:
    assert "spool" in TRANSPORT_ALIASES
    assert resolve_transport("spool").__module__ == "allocation.adapters.spool.transport"
    assert "spool" not in resolve_aliases


def test_celery_takes_the_classes_that_the_application_names() -> None:
    assert isinstance(app.events, CeleryEvents)
    assert issubclass(app.events.Dispatcher, internals.Dispatcher)
    assert issubclass(app.conf.worker_consumer, internals.Consumer)
    assert app.tasks["allocation.allocate"].Request is internals.Request


class Connection:
    """Of a broker that blocks publishers."""

    def __init__(self, unblocks: bool) -> None:
        self.connection = self.transport = self
        self.driver_type = "amqp"
        self.transport_options: dict[str, Any] = {"confirm_publish": True}
        self.unblocks = unblocks

    def drain_events(self, timeout: float) -> None:
        if not self.unblocks:
            raise TimeoutError
        self.transport_options["on_unblocked"]()


@pytest.mark.parametrize("unblocks", [True, False])
def test_events_are_dropped_while_the_broker_is_blocked(unblocks: bool) -> None:
    sent: list[object] = []

    class Producer:
        def publish(self, event: object, **_: object) -> None:
            sent.append(event)

    connection = Connection(unblocks)
    dispatcher = internals.Dispatcher(connection, enabled=False, app=app)
    connection.transport_options["on_blocked"]("memory")

    dispatcher._publish({"type": "task-sent"}, Producer(), "task.sent")

    assert connection.transport_options["confirm_publish"] is False
    assert len(sent) == unblocks


def test_a_lost_connection_ends_the_loop_instead_of_being_read_for_ever() -> None:
    here, there = socket.socketpair()
    amqp = SimpleNamespace(sock=here, transport=None)
    lost = SimpleNamespace(
        transport=SimpleNamespace(driver_name="py-amqp"), connection=amqp, connected=False
    )
    consumer: Any = object.__new__(internals.Consumer)
    consumer.hub = Hub()
    with here, there:
        consumer._read_at_once(lost)
        on_readable, _ = consumer.hub.readers[here.fileno()]

        with pytest.raises(app.connection_for_read().connection_errors, match="lost"):
            on_readable()
        consumer.hub.close()


def test_a_process_of_the_pool_knows_its_place_and_the_main_process_has_none() -> None:
    pool = Pool(1)
    try:
        assert pool.apply(internals.place_in_pool) == 0
    finally:
        pool.terminate()
        pool.join()

    assert internals.place_in_pool() is None
