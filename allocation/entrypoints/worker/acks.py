"""Acknowledges many messages at once: each acknowledgement costs worker and broker a step."""

from collections.abc import Callable
from typing import Any, Protocol

import structlog
from kombu.message import Message

LONGEST_WAIT = 0.5  # seconds

log = structlog.get_logger(__name__)


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> object: ...


class EventLoop(Protocol):
    """The part of the worker's event loop that acknowledgements and batches are timed by."""

    def call_soon(self, call: Callable[[], object]) -> object: ...

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer: ...


class Acknowledgements:
    """The acknowledgements of one channel, sent together at the end of a round of the event loop.

    One acknowledgement with `multiple` covers every message up to it, so it is sent for the last
    message before which none is open. Messages after an open one wait up to LONGEST_WAIT for it,
    and are then acknowledged one by one.
    """

    def __init__(self, loop: EventLoop, connection_errors: tuple[type[Exception], ...]) -> None:
        """`connection_errors` are logged when an acknowledgement meets a lost connection."""
        self._loop = loop
        self._connection_errors = connection_errors
        # By delivery tag, which the channel counts up: the oldest comes first.
        self._open: dict[int, Message] = {}
        self._done: set[int] = set()
        self._called = False
        self._timer: Timer | None = None

    @property
    def has_open(self) -> bool:
        """Whether a delivery is neither acknowledged nor rejected."""
        return bool(self._open)

    def expect(self, message: Message) -> None:
        """Track a delivery that is neither acknowledged nor rejected."""
        self._open[message.delivery_tag] = message

    def settled(self, message: Message) -> None:
        """Stop tracking a message that was acknowledged or rejected by itself."""
        if self._is_open(message):
            del self._open[message.delivery_tag]

    def add(self, message: Message) -> None:
        """Acknowledge a message soon; one of an earlier channel is redelivered instead."""
        if not self._is_open(message):
            return
        self._done.add(message.delivery_tag)
        if not self._called:
            self._called = True
            self._loop.call_soon(self._send)

    def forget(self) -> None:
        """Drop everything: the connection is lost, and the broker redelivers what is open."""
        self._open.clear()
        self._done.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_open(self, message: Message) -> bool:
        # Not by its tag alone: each channel counts from 1.
        return self._open.get(message.delivery_tag) is message

    def _send(self) -> None:
        self._called = False
        leading: Any = None
        for tag in list(self._open):
            if tag not in self._done:
                break
            leading = self._open.pop(tag)
            self._done.remove(tag)
        if leading is not None:
            leading.ack_log_error(log, self._connection_errors, multiple=True)
        if self._done and self._timer is None:
            self._timer = self._loop.call_later(LONGEST_WAIT, self._send_each)

    def _send_each(self) -> None:
        self._timer = None
        for tag in sorted(self._done & self._open.keys()):
            self._open.pop(tag).ack_log_error(log, self._connection_errors)
        self._done.clear()
