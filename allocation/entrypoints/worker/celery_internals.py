"""The private and undocumented parts of Celery and kombu that the worker depends on.

No other module touches them. `tests/unit/worker/test_celery_internals.py` fails if one is missing
or has another shape in the installed Celery; each class says what breaks then.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ssl import SSLSocket
from typing import Any, Protocol
from weakref import ref

import structlog
from amqp.exceptions import RecoverableConnectionError
from billiard import current_process
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError
from celery import current_app
from celery.app.events import Events as CeleryEvents
from celery.app.trace import fast_trace_task
from celery.events.dispatcher import EventDispatcher
from celery.utils.quorum_queues import detect_quorum_queues
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from celery.worker.request import Request as CeleryRequest
from celery.worker.state import maybe_shutdown, revoked
from kombu import Connection, Queue
from kombu import Consumer as KombuConsumer
from kombu.message import Message
from kombu.transport import TRANSPORT_ALIASES

from allocation.entrypoints.worker.acks import Acknowledgements
from allocation.entrypoints.worker.admission import Admission
from allocation.entrypoints.worker.batching import Batching
from allocation.entrypoints.worker.executor import Call, Executor, Traced
from allocation.entrypoints.worker.failures import Failure, Failures
from allocation.entrypoints.worker.spreading import ChannelAcknowledgements, PartitionConsumer
from allocation.messaging.deliveries import read_arrived, reader

log = structlog.get_logger(__name__)

ASK_WITHIN = 20.0  # seconds, then a process that answers no question is ended
EVENTS_EVERY = 0.05  # seconds
EVENTS_BUFFER = 500  # task events in one message, at most
UNSENT = ("properties", "argsrepr", "kwargsrepr")
"""What a request has twice, or for its task events alone; pickled, it would be the largest part."""
MOST_IN_FLIGHT = 4000
"""Commands that a worker may hold in memory while it has all partitions."""
LONGEST_PAUSE = 4.0  # seconds between two attempts to reach the broker


def alias_transport(name: str, transport: str) -> None:
    """Have kombu load `transport`, "module:class", for URLs that begin with `name`.

    Celery's remote control reads the broker's URL without the setting `broker_transport`: without
    the alias, Flower can't inspect a worker on the embedded broker.
    """
    TRANSPORT_ALIASES[name] = transport


def place_in_pool() -> int | None:
    """The number of this process among those of the pool; None in the worker's main process.

    If billiard's processes lose `index`, all of the pool write their metrics into one file.
    """
    index: int | None = getattr(current_process(), "index", None)
    return index


def wait_or_stop(seconds: float) -> None:
    """Wait; raises Celery's exception that ends the worker if the worker was asked to stop.

    Without `maybe_shutdown`, SIGTERM would not end a worker that waits for the database.
    """
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        maybe_shutdown()
        time.sleep(min(left, 0.2))  # in slices: no event loop runs yet that a signal could wake
    maybe_shutdown()


class Worker(Protocol):
    """What this module expects of the Celery application beside Celery's own."""

    executor: Executor

    def look(self, worker: str, held: Sequence[str]) -> object: ...


def look(worker: str, held: Sequence[str]) -> object:
    """As `run_batch`: note which partitions the worker has, and say which there are."""
    app: Worker = current_app
    return app.look(worker, held)


def run_batch(calls: Sequence[Call]) -> list[Traced]:
    """Decide a batch in a process of the pool, to which this function is sent by its name.

    Without `current_app` set in the pool's processes, no batch is decided.
    """
    worker: Worker = current_app
    return worker.executor.run(calls)


def trace(call: Call) -> Traced:
    """Run a task with all that Celery does around it: retries, failures, events, signals.

    This is what Celery gives to a process of the pool. Its body is decoded, so the content type
    is None; with another signature, no undecided command is retried or fails.
    """
    body: tuple[Any, Any, dict[str, Any]] = (call.request["args"], call.request["kwargs"], {})
    traced: Traced = fast_trace_task(call.name, call.id, dict(call.request), body, None, None)
    return traced


class Request(CeleryRequest):
    """A task's request whose failures are settled by `task.failures`.

    Celery's own request rejects without a reason, and acknowledges what was revoked. It calls
    `reject` and `_announce_revoked` for these, and `on_failure` before the first; `acknowledged`
    says whether the message is settled. If these change, dead letters lose their reasons, or
    revoked commands are lost.
    """

    acknowledged: bool
    task: Any
    _failure: ExceptionInfo | None = None

    def on_failure(self, exc_info: ExceptionInfo, *args: Any, **options: Any) -> Any:
        self._failure = exc_info
        return super().on_failure(exc_info, *args, **options)

    def reject(self, requeue: bool = False) -> None:
        failures: Failures = self.task.failures
        failures.rejected(self, _read(self._failure), requeue)

    def reject_message(self, requeue: bool) -> None:
        super().reject(requeue)

    def maybe_expire(self) -> bool:
        """Celery remembers an expired command as revoked: it would be dropped when replayed."""
        known = self.id in revoked
        expired = bool(super().maybe_expire())
        if expired and not known:
            revoked.discard(self.id)
        return expired

    def _announce_revoked(
        self, reason: str, terminated: bool, signum: object, expired: bool
    ) -> None:
        failures: Failures = self.task.failures
        failures.revoked(self, reason)
        super()._announce_revoked(reason, terminated, signum, expired)


def _read(failure: ExceptionInfo | None) -> Failure:
    exception = getattr(failure, "exception", None)
    # An exception of a pool process comes within one that carries its traceback.
    return Failure(getattr(exception, "exc", exception), str(getattr(failure, "traceback", "")))


class BatchPool:
    """Celery's pool, to which a batch of requests goes as one call.

    `controller.semaphore` counts the free processes; the pool releases a place when a call has
    ended. The pool `solo` does not use it, and has decided a batch when `apply_async` returns. The
    pool's callbacks go to each request, as they do for a single one. If this changes, batches are
    not started, or their commands are not acknowledged.
    """

    def __init__(self, consumer: CeleryConsumer) -> None:
        self._consumer = consumer

    def acquire(self, start: Callable[[], None]) -> None:
        if self._consumer.pool.uses_semaphore:
            self._consumer.controller.semaphore.acquire(start)
        else:
            start()

    def release(self) -> None:
        if self._consumer.pool.uses_semaphore:
            self._consumer.controller.semaphore.release()

    def ask(self, question: Callable[..., Any], *args: Any, answered: Callable[[Any], Any]) -> None:
        """Have a free process answer; the answer is None if it fails."""

        def start() -> None:
            self._consumer.pool.apply_async(
                question,
                args,
                callback=answered,
                error_callback=lambda failure: answered(None),
                soft_timeout=ASK_WITHIN,
                timeout=2 * ASK_WITHIN,
            )

        self.acquire(start)

    def run(self, requests: Sequence[Request], finished: Callable[[], None]) -> None:
        first = requests[0]
        hard_limit, soft_limit = first.time_limits

        def on_accepted(pid: int, time_accepted: float) -> None:
            for request in requests:
                request.on_accepted(pid, time_accepted)

        def on_timeout(soft: bool, timeout: float) -> None:
            for request in requests:
                request.on_timeout(soft, timeout)

        def on_success(results: Sequence[Traced]) -> None:
            finished()
            for request, result in zip(requests, results, strict=True):
                request.on_success(result)

        def on_failure(failure: ExceptionInfo) -> None:
            finished()
            for request in requests:
                request.on_failure(_as_of(request, failure))

        for request in requests:
            for name in UNSENT:
                request.request_dict.pop(name, None)
        result = self._consumer.pool.apply_async(
            run_batch,
            ([Call(request.type, request.id, request.request_dict) for request in requests],),
            accept_callback=on_accepted,
            timeout_callback=on_timeout,
            callback=on_success,
            error_callback=on_failure,
            soft_timeout=soft_limit or first.task.soft_time_limit,
            timeout=hard_limit or first.task.time_limit,
            correlation_id=first.id,
        )
        for request in requests:
            # Through this, a request that is revoked by force ends its batch.
            request._apply_result = None if result is None else ref(result)


def _as_of(request: Request, failure: ExceptionInfo) -> ExceptionInfo:
    """What the failure of a batch is to one of its requests.

    Celery dead-letters a terminated request as revoked, and redelivers one whose process was lost.
    """
    cause = getattr(failure.exception, "exc", failure.exception)
    was_meant = request._already_revoked or request._already_cancelled
    if not isinstance(cause, Terminated) or was_meant:
        return failure
    try:
        raise WorkerLostError("another command of the same batch was terminated")
    except WorkerLostError:
        return ExceptionInfo()


class Consumer(CeleryConsumer):
    """Celery's consumer with an admission, and with batches and acknowledgements of its own.

    `hub` is Celery's event loop. Celery passes each delivery to the function that
    `create_task_handler` returns, each admitted request to `on_task_request`, and each
    acknowledgement to `call_soon_ack`. If these change, invalid messages reach Celery, and commands
    are decided and acknowledged one by one. If `connect` gives the socket to the loop by other
    means, it is read slowly.
    """

    admission: Admission

    class Blueprint(CeleryConsumer.Blueprint):
        """Without the step that declares the queues of delayed retries.

        `allocation topology` declares them, and the worker has no right to: with the step, it
        would not start.
        """

        def claim_steps(self) -> dict[str, Any]:
            steps: dict[str, Any] = super().claim_steps()
            del steps[DelayedDelivery.name]
            return steps

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._events_due = False
        self.acknowledgements: ChannelAcknowledgements | None = None
        self._batching: Batching | None = None

    def start_batching(self, size: int, linger: float) -> None:
        """Decide commands in batches, where there is an event loop."""
        if self.hub is not None:
            self.acknowledgements = ChannelAcknowledgements(
                lambda: Acknowledgements(self.hub, self.connection_errors)
            )
            self._batching = Batching(self.hub, BatchPool(self), size, linger)
            self.on_task_request = self._batching.add

    def wait_until_usable(self) -> None:
        """Return once commands can be decided; called before each connect."""

    def broker_can_delay(self) -> bool:
        """Whether the broker holds delayed messages, as RabbitMQ does for quorum queues."""
        driver = self.app.connection_for_write().transport.driver_type
        return bool(detect_quorum_queues(self.app, driver)[0])

    def consume_from(self, queues: Sequence[Queue], *, partitioned: bool) -> None:
        """Consume these queues from the next connect on."""
        amqp = self.app.amqp
        for queue in queues:
            amqp.queues.add(queue)
        amqp.queues.select([queue.name for queue in queues])
        amqp.Consumer = PartitionConsumer if partitioned else KombuConsumer

    def ask_pool(self, held: Sequence[str], answered: Callable[[Any], None]) -> None:
        """Have a process of the pool `look`, as the event loop must not wait for the database."""
        BatchPool(self).ask(look, self.hostname, held, answered=answered)

    def reconnect(self, why: str) -> None:
        """Have the event loop end this connection, and connect again."""

        def end() -> None:
            raise RecoverableConnectionError(why)

        self.hub.call_soon(end)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*args, **options)
        if isinstance(self.task_consumer, PartitionConsumer):
            # Of each partition as much as one process of the pool can use; of many, less.
            most = MOST_IN_FLIGHT // len(self.task_consumer.queues)
            self.task_consumer.prefetch_count = min(self.prefetch_multiplier, most)
        acknowledgements = self.acknowledgements

        def admit_and_handle(message: Message) -> None:
            if self.admission.admit(message):
                handle(message)

        def track_and_handle(message: Message) -> None:
            assert acknowledgements is not None
            acknowledgements.expect(message)
            admit_and_handle(message)
            if message.acknowledged:
                acknowledgements.settled(message)

        return admit_and_handle if acknowledgements is None else track_and_handle

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self.admission.turn_away(message, f"the body can't be read: {exc}")

    def call_soon_ack(self, settle: Any, *args: Any, **options: Any) -> Any:
        """Acknowledge a message together with others; reject it by itself."""
        if self.acknowledgements is None:
            return super().call_soon_ack(settle, *args, **options)
        message = settle.__self__
        if settle == message.ack_log_error:
            return self.acknowledgements.add(message)
        self.acknowledgements.settled(message)
        return super().call_soon_ack(settle, *args, **options)

    def on_send_event_buffered(self) -> None:
        """Celery would send its events at each round of the event loop: mostly one at a time."""
        if self.hub is not None and not self._events_due:
            self._events_due = True
            self.hub.call_later(EVENTS_EVERY, self._send_events)

    def _send_events(self) -> None:
        self._events_due = False
        self._flush_events()

    def on_close(self) -> None:
        super().on_close()
        if self.acknowledgements is not None:
            self.acknowledgements.forget()
        if self._batching is not None:
            self._batching.forget()

    def connect(self) -> Connection:
        self.wait_until_usable()
        connection = super().connect()
        if self.hub is not None and connection.transport.driver_name == "py-amqp":
            self._read_at_once(connection)
        return connection

    def _read_at_once(self, connection: Connection) -> None:
        """Read what has arrived by few calls of the kernel; kombu makes some twenty a message.

        `add_reader` replaces the function by which kombu reads. The loop calls it again while bytes
        are left in the socket; TLS may have taken them out.
        """
        read, socket = reader(connection), connection.connection.sock

        def on_readable() -> None:
            if not connection.connected:
                raise RecoverableConnectionError("the connection to the broker is lost")
            while read_arrived(read) and isinstance(socket, SSLSocket):
                pass

        self.hub.add_reader(socket, on_readable)

    def ensure_connected(self, conn: Connection) -> Connection:
        """Celery's own backoff grows to half a minute, in which nobody reads the queue."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=0.5,
            interval_step=0.5,
            interval_max=LONGEST_PAUSE,
        )
        return super().ensure_connected(conn)


class Dispatcher(EventDispatcher):
    """Publishes task and worker events, which Flower shows, or drops them; it never waits.

    The worker's main loop publishes events. So they are not confirmed, and while the broker is
    short of memory or disk and takes no message, they are dropped: else the loop would stand still,
    and with it acknowledgements, remote control and SIGTERM. If `_publish` is not called any more,
    or py-amqp's `on_blocked`, a blocked broker stops the worker.
    """

    def __init__(self, connection: Any = None, *args: Any, **options: Any) -> None:
        self._blocked = False
        if connection is not None and connection.transport.driver_type == "amqp":
            changed: Mapping[str, object] = {
                "confirm_publish": False,
                "on_blocked": self._on_blocked,
                "on_unblocked": self._on_unblocked,
            }
            # For the connection as it is, and for those that follow when it breaks.
            connection.transport_options = {**connection.transport_options, **changed}
            for name, value in changed.items():
                setattr(connection.connection, name, value)
        super().__init__(connection, *args, **{**options, "buffer_limit": EVENTS_BUFFER})

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        if self._blocked:
            with suppress(TimeoutError):  # nothing to read: it is still blocked
                self.connection.drain_events(timeout=0)
        if not self._blocked:
            super()._publish(event, producer, routing_key, **options)

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False


class Events(CeleryEvents):
    """What `app.events` is."""

    dispatcher_cls = Dispatcher
