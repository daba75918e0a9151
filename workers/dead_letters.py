"""Messages that can't be followed go to `<queue>.dead`, with the reason in their headers."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from amqp.exceptions import MessageNacked
from kombu import Connection
from kombu.message import Message

from workers.envelope import Envelope

log = structlog.get_logger(__name__)

# Seconds. A broker that is short of memory or disk gives no answer, but for the heartbeats, each of
# which begins the wait anew: so it is less than their half.
CONFIRM_TIMEOUT = 5.0

LARGEST_BODY = 256 * 1024
"""Bytes that a dead letter keeps of a body; the header `x-cut-bytes` counts those that were cut."""

Facts = Mapping[str, object]
"""What the headers tell, without their `x-`; `reason`, `error` and `last` always."""


class DeadLetters:
    """The dead-letter queue of one queue, over the consumer's own connection."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self._connection = connection
        self._queue = queue

    def bury(self, message: Message, facts: Facts) -> None:
        """Publish the message there, and acknowledge it once it is there.

        Where the broker does not take it, the message is rejected: the broker then moves it there
        by itself, without the reason.
        """
        headers = dict(message.headers or {})
        headers.pop("x-cut-bytes", None)
        # Renamed, so that no reader of the dead letter decompresses the body.
        if compression := headers.pop("compression", None):
            headers["x-compression"] = compression
        body = message.body or b""  # an empty one comes as text, which `binary` can't encode
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        if len(body) > LARGEST_BODY:
            headers["x-cut-bytes"] = len(body) - LARGEST_BODY
        try:
            self._publish(
                body[:LARGEST_BODY],
                message.content_type,
                message.content_encoding or "binary",
                headers,
                facts,
            )
        except (*self._connection.channel_errors, MessageNacked) as failure:
            log.error(
                f"{self._queue}.dead takes no message; if it is missing, run `allocation topology`",
                error=str(failure),
            )
            message.reject()
        else:
            message.ack()

    def bury_held(self, event: Envelope, facts: Facts) -> None:
        """Publish an event there that was acknowledged already, as it had to wait."""
        body = json.dumps(event.body).encode()
        self._publish(body, "application/cloudevents+json", "utf-8", {}, facts)

    def _publish(
        self,
        body: bytes | str,
        content_type: str | None,
        encoding: str,
        headers: Mapping[str, object],
        facts: Facts,
    ) -> None:
        error = str(facts["error"])
        log.error("an event goes to the dead-letter queue", reason=facts["reason"], error=error)
        facts = {"last": datetime.now(UTC).isoformat()} | dict(facts)
        death = {f"x-{name}": value for name, value in facts.items()}
        # A channel of its own: a refusal closes it, and the consumer's must live on.
        with self._connection.channel() as channel:
            self._connection.Producer(channel).publish(
                body,
                # Its own exchange: by the default one it could write to every queue.
                exchange=f"{self._queue}.dead",
                routing_key="",
                content_type=content_type,
                content_encoding=encoding,
                headers={**headers, **death},
                delivery_mode=2,
                mandatory=True,
                confirm_timeout=CONFIRM_TIMEOUT,
            )
