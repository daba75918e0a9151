"""Dead letters: messages that nobody could process, in a queue of their own, with the reason.

`subscriber.Subscriber` decides when an event is given up: if it is invalid or fails `TRIES` times.

The headers of a dead letter say what is known, each behind `x-`: reason, error, traceback,
attempts, first, last. The reason, the error and the last time are always there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from amqp.exceptions import MessageNacked
from kombu import Connection, Producer
from kombu.exceptions import OperationalError
from kombu.message import Message

log = structlog.get_logger(__name__)

CONFIRM_TIMEOUT = 5.0
"""Seconds.

A broker that is short of memory or disk gives no answer, but for the heartbeats, each of which
begins the wait anew: so it is less than their half.
"""

Details = Mapping[str, object]
"""What the headers say, without `x-`; `reason` and `error` always."""

LARGEST_BODY = 256 * 1024
"""Bytes: the limit for the body of a message, and for what a dead letter keeps of a body."""

CUT = "x-cut-bytes"
"""The header of a dead letter with the number of bytes that were cut off its body."""

_OURS = ("reason", "error", "traceback", "attempts", "first", "last", "held_event")
# A message that is replayed begins anew, without these. The operator who replays it has decided
# that it is not too late.
_OF_THE_PAST = {f"x-{name}" for name in _OURS} | {"first_failed_at", "expires"}
_COUNTED = ("x-delivery-count", "x-acquired-")
_THE_BROKERS = ("x-death", "x-first-death-", "x-last-death-", *_COUNTED)


class Incomplete(Exception):
    """A dead letter can't be delivered again because its body was cut."""


def headers_of(message: Message, details: Details) -> dict[str, object]:
    """The headers with which `message` becomes a dead letter."""
    headers = dict(message.headers or {})
    headers.pop(CUT, None)
    # Renamed, so that no reader of the dead letter decompresses the body.
    if compression := headers.pop("compression", None):
        headers["x-compression"] = compression
    if (cut := len(_bytes(message.body)) - LARGEST_BODY) > 0:
        headers[CUT] = cut
    details = {"last": datetime.now(UTC).isoformat()} | dict(details)
    return headers | {f"x-{name}": value for name, value in details.items()}


class DeadLetterPublisher:
    """Publishes dead letters over a connection of its own, which it opens when it needs one.

    For Celery's consumer, which must not wait for a confirm: it would read the next message.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        """`connect` makes connections that confirm what is published."""
        self._connect = connect
        self._producer: Producer | None = None

    def dead_letter(self, message: Message, queue: str, details: Details) -> bool:
        """Copy the message to the dead-letter queue `queue`; False as for `copy`."""
        return self._publish_again(lambda producer: _dead_letter(producer, queue, message, details))

    def copy(
        self, message: Message, exchange: str, routing_key: str, headers: Mapping[str, object]
    ) -> bool:
        """Publish the message again.

        Returns False unless the broker confirms the copy, which may exist even so. The message
        itself is not changed.
        """
        return self._publish_again(
            lambda producer: _publish(producer, exchange, routing_key, message, headers)
        )

    def _publish_again(self, publish: Callable[[Producer], None]) -> bool:
        kept = self._producer is not None
        # A connection that was kept may have been lost since: that costs a second try.
        return self._try(publish) or (kept and self._try(publish))

    def _try(self, publish: Callable[[Producer], None]) -> bool:
        connection = self._producer.connection if self._producer else self._connect()
        try:
            if self._producer is None:
                self._producer = Producer(connection.channel())
            publish(self._producer)
        except (
            OSError,
            OperationalError,
            MessageNacked,
            *connection.connection_errors,
            *connection.channel_errors,
        ) as error:
            log.warning("the broker did not accept the dead letter", error=str(error))
            # A late confirm must not be taken for the next message's.
            connection.collect()
            self._producer = None
            return False
        return True


class DeadLetterQueue:
    """The dead-letter queue of one queue, over the connection that consumes it."""

    def __init__(self, connection: Connection, queue: str) -> None:
        """The connection confirms what is published."""
        self._connection = connection
        self._name = f"{queue}.dead"

    def dead_letter(self, message: Message, details: Details) -> None:
        """Publish the message there, and acknowledge it once it is there.

        If the broker refuses it, the message is rejected: the broker then moves it there by itself,
        without the reason. Raises the connection's errors; the message then comes again.
        """
        try:
            self._publish(message, details)
        except (*self._connection.channel_errors, MessageNacked) as failure:
            log.error(
                f"{self._name} does not accept messages; if it is missing, run `allocation"
                " topology`",
                error=str(failure),
            )
            message.reject()
        else:
            message.ack()

    def dead_letter_event(self, event: Mapping[str, Any], details: Details) -> None:
        """Publish an event there whose message was acknowledged earlier."""
        body = json.dumps(event).encode()
        message = Message(
            body, content_type="application/cloudevents+json", content_encoding="utf-8"
        )
        self._publish(message, details)

    def _publish(self, message: Message, details: Details) -> None:
        log.error(
            "an event is dead-lettered",
            reason=details["reason"],
            error=str(details["error"]),
        )
        # A channel of its own: a refusal closes it, and the consumer's must live on.
        with self._connection.channel() as channel:
            _dead_letter(Producer(channel), self._name, message, details)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message of a dead-letter queue; `id` is the command's or event's, else made from it."""

    id: str
    queue: str
    reason: str
    name: str
    attempts: int | None
    first: str | None
    last: str | None
    error: str
    message: Message

    @property
    def cut(self) -> int:
        """How many bytes of its body were cut off."""
        number = (self.message.headers or {}).get(CUT)
        return number if isinstance(number, int) else 0

    @property
    def kind(self) -> str:
        """What dead letters of the same cause have in common, beside their reason and name."""
        return self.error.partition(":")[0][:100] if self.reason == "failed" else ""


def read(queue: str, message: Message) -> DeadLetter:
    """The dead letter that a message of the queue `queue` is, whatever it holds."""
    headers = message.headers or {}
    first, last = _deaths(headers)
    reason = headers.get("x-reason") or last.get("reason") or "unknown"
    attempts = headers.get("x-attempts")
    event = object_in(message.body)
    # Looking at a dead letter returns it, which the broker counts: that must not change its id.
    lasting = [each for each in sorted(headers.items()) if not each[0].startswith(_COUNTED)]
    # Messages that the broker dead-letters itself have bodies of any size.
    made = hashlib.sha256(_bytes(message.body)[:LARGEST_BODY] + repr(lasting).encode())
    return DeadLetter(
        id=str(headers.get("id") or event.get("id") or made.hexdigest()[:16])[:100],
        queue=queue,
        reason=str(reason)[:100],
        error=str(headers.get("x-error") or "")[:1000],
        name=str(headers.get("task") or event.get("type") or "")[:100],
        attempts=attempts if isinstance(attempts, int) else None,
        first=_text(headers.get("x-first") or first.get("time")),
        last=_text(headers.get("x-last") or last.get("time")),
        message=message,
    )


def object_in(body: bytes | str) -> dict[str, Any]:
    """The JSON object in a body; an empty one if there is none, or if the body is too large."""
    if len(body) > LARGEST_BODY:
        return {}
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def fetch(connection: Connection, queue: str, at_most: int) -> Iterator[DeadLetter]:
    """The oldest dead letters, one after the other.

    No other reader sees them meanwhile. Those neither acknowledged nor rejected go back.
    """
    with connection.channel() as channel:
        for _ in range(at_most):
            message = channel.basic_get(queue, no_ack=False)
            if message is None:
                return
            yield read(queue, channel.message_to_python(message))


def send_again(
    connection: Connection, exchange: str, routing_key: str, dead_letter: DeadLetter
) -> None:
    """Publish the message again, as new, and then take it off the dead-letter queue.

    Dying between the two leaves it in both, and its id makes that harmless. Raises the connection's
    errors, or Incomplete; the message then stays a dead letter.
    """
    if dead_letter.cut:
        raise Incomplete(
            f"{dead_letter.id} can't be delivered again:"
            f" {dead_letter.cut} bytes of its body were cut off"
        )
    message = dead_letter.message
    headers = {
        name: value
        for name, value in (message.headers or {}).items()
        if name not in _OF_THE_PAST and not name.startswith(_THE_BROKERS)
    }
    if not exchange:
        headers.pop("CC", None)  # the sender's other routing keys would be names of queues here
    if "retries" in headers:
        headers["retries"] = 0
    if compression := headers.pop("x-compression", None):
        headers["compression"] = compression
    with connection.channel() as channel:
        _publish(Producer(channel), exchange, routing_key, message, headers)
    message.ack()


def _dead_letter(producer: Producer, queue: str, message: Message, details: Details) -> None:
    body = _bytes(message.body)[:LARGEST_BODY]
    # By the queue's own exchange: a user who may write to the default one reaches every queue.
    _publish(producer, queue, "", message, headers_of(message, details), body)


def _publish(
    producer: Producer,
    exchange: str,
    routing_key: str,
    message: Message,
    headers: Mapping[str, object],
    body: bytes | None = None,
) -> None:
    kept = ("correlation_id", "message_id", "reply_to", "type", "app_id")
    properties = {name: message.properties[name] for name in kept if name in message.properties}
    producer.publish(
        # py-amqp gives an empty one as text, which `binary` can't encode.
        message.body or b"" if body is None else body,
        exchange=exchange,
        routing_key=routing_key,
        content_type=message.content_type,
        content_encoding=message.content_encoding or "binary",
        headers=dict(headers),
        delivery_mode=2,
        mandatory=True,
        confirm_timeout=CONFIRM_TIMEOUT,
        **properties,
    )


def _deaths(headers: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The first and the last entry of `x-death`, which a sender may have forged."""
    found = headers.get("x-death")
    deaths = found if isinstance(found, list) else []
    entries = [death for death in deaths if isinstance(death, dict)] or [{}]
    return entries[-1], entries[0]


def _bytes(body: bytes | str | None) -> bytes:
    body = body or b""
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:100]
