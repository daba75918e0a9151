"""`spool://`: kombu's filesystem transport, mended so that it loses nothing when a process dies.

The folder stands in the URL: `spool:///absolute/folder`. It is for one machine, without a server.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count, takewhile
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import structlog
from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import filesystem, virtual

from allocation.adapters.spool.files import ROOM, Claim, Files, Payload

log = structlog.get_logger(__name__)

MEASURE_EVERY = 0.2
"""Seconds between two checks of the free disk space."""
SWEEP_EVERY = 2.0
"""Seconds between two looks for the claims of dead processes."""
TURN_EVERY = 0.01
"""Seconds between two turns in which an event loop delivers messages, while there are none."""
LONGEST_TURN = 0.01
"""Seconds: acknowledgements, timers and so on come in between."""
NEXT_TURN = 0.001
"""Seconds until the next turn when this one was too short for all messages. With 0 the event loop
would take turns, ten of them, before it reads anything."""
LONGEST_DELAY = 2.0**28
"""Seconds for which a task is held, as with RabbitMQ: eight years."""


class Unroutable(ChannelError):
    """A message that had to reach a queue reached none."""


class QoS(virtual.QoS):
    """What a channel holds unacknowledged; each is a claim on disk."""

    def __init__(self, channel: "Channel", prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._process = os.getpid()

    def ack(self, delivery_tag: int) -> None:
        self.channel.settle(delivery_tag, self.channel.files.done)
        super().ack(delivery_tag)

    def give_back(self, delivery_tag: int) -> None:
        """Return the message to its queue without counting a delivery: it is not the cause."""
        self.channel.settle(delivery_tag, self.channel.files.give_back_untried)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: int, requeue: bool = False) -> None:
        give_up = self.channel.files.give_back if requeue else self.channel.dead_letter
        self.channel.settle(delivery_tag, give_up)
        super().ack(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        self._flush()
        for tag in list(self._delivered):
            # No delivery is counted: the process is alive, so the message did not crash it.
            self.channel.settle(tag, self.channel.files.give_back_untried)
        self._delivered.clear()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        if os.getpid() == self._process:  # a forked child has a copy of what is its parent's
            super().restore_unacked_once(stderr)


class Channel(filesystem.Channel):
    """One channel: claims are its own, exchanges and queues are everybody's."""

    QoS = QoS

    def __init__(self, connection: "Transport", **options: Any) -> None:
        super().__init__(connection, **options)
        self.files: Files = connection.files
        # By delivery tag, which counts up: the oldest comes first.
        self._claims: dict[int, Claim] = {}
        self._tags = count(1)
        self._no_ack: set[str] = set()
        self._exclusive: set[str] = set()
        self._process = os.getpid()
        self._swept = 0.0
        self._measured = 0.0
        self._full = False

    # Publishing

    def basic_publish(
        self,
        message: Payload,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        **_options: Any,
    ) -> None:
        """Put the message into every queue it is for; it is there when this returns.

        Raises ChannelError when there is no such exchange, Unroutable for a mandatory message that
        no queue takes.
        """
        self._inplace_augment_message(message, exchange, routing_key)
        queues = self._route(exchange, routing_key)
        due = _due(message["headers"]) if self._holds_tasks(exchange) else 0
        taken = [self.files.put(queue, message, due) for queue in queues]
        if mandatory and not any(taken):
            raise Unroutable(f"no queue is bound to the exchange {exchange!r} for {routing_key!r}")

    def _route(self, exchange: str, routing_key: str) -> list[str]:
        if not exchange:
            return [routing_key]
        found = self.files.exchange(exchange)
        if found is None:
            raise _not_found("exchange", exchange)
        kind = self.exchange_types[found["type"]]
        return sorted(kind.lookup(found["bindings"], exchange, routing_key, None))

    def _holds_tasks(self, exchange: str) -> bool:
        """Whether tasks are held until they are due, as Celery has RabbitMQ do it."""
        found = self.files.exchange(exchange) if exchange else None
        return found is not None and found["type"] == "topic"

    # Consuming

    def _get(self, queue: str) -> Payload:
        if time.monotonic() - self._swept >= SWEEP_EVERY:
            self._swept = time.monotonic()
            self.files.sweep()
        while taken := self.files.claim(queue):
            claim, payload = taken
            if reason := self._undeliverable(claim, payload):
                if self.dead_letter(claim, reason):
                    continue
                raise Empty  # it would be the next one again
            tag = next(self._tags)
            self._claims[tag] = claim
            properties = payload["properties"]
            properties["delivery_tag"] = tag
            properties["delivery_info"]["redelivered"] = claim.deliveries > 0
            if claim.deliveries:
                payload["headers"]["x-delivery-count"] = claim.deliveries
            return payload
        raise Empty

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **options: Any) -> None:
        if no_ack:
            self._no_ack.add(queue)
        super().basic_consume(queue, no_ack, *args, **options)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        message = super().basic_get(queue, no_ack=no_ack, **options)
        if no_ack and message is not None:
            self.settle(message.delivery_tag, self.files.done)
        return message

    def _get_and_deliver(self, queue: str, callback: Callable[[Payload, str], None]) -> None:
        if self._is_full():
            raise Empty
        payload = self._get(queue)
        if queue in self._no_ack:
            self.settle(payload["properties"]["delivery_tag"], self.files.done)
        callback(payload, queue)

    def deliver(self, callback: Callable[[Payload, str], None], until: float) -> bool:
        """Deliver a message at least, and others until that time; whether there may be more."""
        with suppress(Empty):
            self.drain_events(callback=callback)
            while time.monotonic() < until:
                self.drain_events(callback=callback)
            return True
        return False

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Acknowledge one message, or with `multiple` all of the channel's up to this one."""
        earlier = takewhile(lambda tag: tag < delivery_tag, list(self._claims)) if multiple else ()
        for tag in (*earlier, delivery_tag):
            self.qos.ack(tag)

    def settle(self, tag: int, how: Callable[[Claim], None]) -> None:
        """Do `how` to the claim behind the delivery tag, once."""
        claim = self._claims.get(tag)
        if claim is not None:
            how(claim)
            self._claims.pop(tag, None)  # only now: if `how` fails, the claim is kept

    def dead_letter(self, claim: Claim, reason: str = "rejected") -> bool:
        """Move the message to its queue's dead-letter exchange; drop it if there is none.

        Returns whether it has left its queue: it can't if the disk takes nothing.
        """
        arguments = self.files.arguments(claim.queue)
        exchange = arguments.get("x-dead-letter-exchange")
        if exchange is not None:
            payload = self.files.read(claim)
            information = payload["properties"]["delivery_info"]
            routing_key = arguments.get(
                "x-dead-letter-routing-key", information.get("routing_key", "")
            )
            payload["headers"] = _with_death(payload["headers"], claim.queue, reason, information)
            payload["properties"].pop("expiration", None)
            try:
                for queue in self._route(exchange, routing_key):
                    self.files.put(queue, payload)
            except OSError as error:
                log.warning(
                    "a dead letter can't be written now", queue=claim.queue, error=str(error)
                )
                self.files.give_back_untried(claim)  # to be dead-lettered when it comes again
                return False
        self.files.done(claim)
        return True

    def _undeliverable(self, claim: Claim, payload: Payload) -> str | None:
        """Why the message may not be delivered any more: it is too old, or was too often."""
        arguments = self.files.arguments(claim.queue)
        limits = [payload["properties"].get("expiration"), arguments.get("x-message-ttl")]
        age = (time.time_ns() - int(claim.name.partition("-")[0])) / 1e6
        if any(age > float(limit) for limit in limits if limit is not None):
            return "expired"
        if claim.deliveries > arguments.get("x-delivery-limit", claim.deliveries):
            return "delivery_limit"
        return None

    def _is_full(self) -> bool:
        """Whether delivery is stopped, as the disk has no room for what consumers would write.

        So a full disk does not use up the deliveries of a message.
        """
        if time.monotonic() - self._measured > MEASURE_EVERY:
            was, self._full = self._full, self.files.is_full()
            self._measured = time.monotonic()
            if self._full and not was:
                log.error(f"the disk is full: nothing is delivered until {ROOM} bytes are free")
            if was and not self._full:
                log.info("the disk has space again: messages are delivered")
        return self._full

    # Exchanges and queues

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        passive: bool = False,
        **_options: Any,
    ) -> None:
        type = type or "direct"
        exchange = exchange or f"amq.{type}"
        if passive:
            if self.files.exchange(exchange) is None:
                raise _not_found("exchange", exchange)
            return
        with self.files.changing_exchange(exchange) as changing:
            if changing.setdefault("type", type) != type:
                raise _differs("exchange", exchange, "type", changing["type"], type)

    def exchange_delete(self, exchange: str, **_options: Any) -> None:
        self.files.remove_exchange(exchange)

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Payload | None = None,
        **_options: Any,
    ) -> Any:
        queue = queue or f"amq.gen-{uuid4()}"
        known = self.files.has_queue(queue)
        if passive and not known:
            raise _not_found("queue", queue)
        wanted = arguments or {}
        if not passive and known and self.files.arguments(queue) != wanted:
            raise _differs("queue", queue, "arguments", self.files.arguments(queue), wanted)
        if not passive and not known:
            fleeting = exclusive or (auto_delete and not durable)
            self.files.make_queue(queue, wanted, exclusive=fleeting)
            if fleeting:
                self._exclusive.add(queue)
        return queue_declare_ok_t(queue, self.files.size(queue), self.files.holders(queue))

    def queue_delete(self, queue: str, if_empty: bool = False, **_options: Any) -> None:
        if not (if_empty and self.files.size(queue)):
            self.files.remove_queue(queue)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Payload | None = None,
        **_options: Any,
    ) -> None:
        exchange = exchange or "amq.direct"
        with self.files.changing_exchange(exchange) as changing:
            kind = self.exchange_types[changing.setdefault("type", "direct")]
            binding = list(kind.prepare_bind(queue, exchange, routing_key or "", arguments))
            if binding not in changing["bindings"]:
                changing["bindings"].append(binding)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        **_options: Any,
    ) -> None:
        with self.files.changing_exchange(exchange or "amq.direct") as changing:
            changing["bindings"] = [
                binding
                for binding in changing["bindings"]
                if (binding[0], binding[2]) != (routing_key or "", queue)
            ]

    def get_table(self, exchange: str) -> list[list[str]]:
        found = self.files.exchange(exchange)
        return [] if found is None else list(found["bindings"])

    def get_exchanges(self) -> list[str]:
        return self.files.exchanges()

    def _size(self, queue: str) -> int:
        return self.files.size(queue)

    def _purge(self, queue: str) -> int:
        return self.files.purge(queue)

    def close(self) -> None:
        """Give back what was not acknowledged, and drop the queues that were this channel's own."""
        if not self.closed and os.getpid() == self._process:
            for queue in self._exclusive:
                self.files.remove_queue(queue)
        super().close()


class Transport(filesystem.Transport):
    """kombu's entry: one spool folder."""

    Channel = Channel
    can_parse_url = True
    driver_type = driver_name = "spool"
    polling_interval = 0.05
    # Celery's worker then has an event loop, and collects messages into batches.
    implements = filesystem.Transport.implements.extend(asynchronous=True)
    # OSError, such as for a full disk: consumers reconnect, as after a lost connection.
    connection_errors = (*filesystem.Transport.connection_errors, OSError)

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        folder = unquote(urlsplit(client.hostname).path)
        if not folder:
            raise ValueError(
                f"{client.hostname!r} is not an absolute folder: write spool:///absolute/folder"
            )
        self.files = Files(Path(folder))
        self._is_called = False

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver messages in turns within kombu's event loop, until that is reset."""
        loop.call_repeatedly(TURN_EVERY, self._take_turn, loop)

    def _take_turn(self, loop: Any) -> None:
        until = time.monotonic() + LONGEST_TURN
        # Each channel gets its share: remote control is not kept waiting by many tasks.
        left = [channel.deliver(self._deliver, until) for channel in list(self.channels)]
        if any(left) and not self._is_called:
            self._is_called = True
            loop.call_later(NEXT_TURN, self._take_next_turn, loop)

    def _take_next_turn(self, loop: Any) -> None:
        self._is_called = False
        self._take_turn(loop)

    @property
    def default_connection_params(self) -> Payload:
        return {}


def _due(headers: Payload) -> int:
    """When Celery's task is due, in nanoseconds as `time.time_ns` counts them; 0 is at once."""
    try:
        due = datetime.fromisoformat(headers["eta"])
        if "task" not in headers:
            return 0
        seconds = (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0
    # What is too far ahead is for the consumer to refuse.
    return int(seconds * 1e9) if seconds < time.time() + LONGEST_DELAY else 0


def _with_death(headers: Payload, queue: str, reason: str, information: Payload) -> Payload:
    """The headers with this death written down as RabbitMQ does."""
    deaths = [dict(death) for death in headers.get("x-death", [])]
    same = next((d for d in deaths if (d["queue"], d["reason"]) == (queue, reason)), None)
    if same is None:
        same = {"queue": queue, "reason": reason, "count": 0}
        same["time"] = datetime.now(UTC).isoformat()
        same["exchange"] = information.get("exchange", "")
        same["routing-keys"] = [information.get("routing_key", "")]
    else:
        deaths.remove(same)
    same["count"] += 1
    first = {
        "x-first-death-queue": queue,
        "x-first-death-reason": reason,
        "x-first-death-exchange": information.get("exchange", ""),
    }
    return first | headers | {"x-death": [same, *deaths]}


def _not_found(what: str, name: str) -> ChannelError:
    return ChannelError(f"NOT_FOUND - no {what} {name!r}", (50, 10), "Channel.declare", "404")


def _differs(what: str, name: str, part: str, known: object, wanted: object) -> ChannelError:
    return ChannelError(
        f"PRECONDITION_FAILED - the {what} {name!r} has {part} {known!r}, not {wanted!r}",
        (50, 10),
        "Channel.declare",
        "406",
    )
