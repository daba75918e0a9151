"""Acknowledgements of many messages in one: each costs worker and broker a step of its own."""

from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.message import Message

LONGEST_WAIT = 0.5  # seconds

log = structlog.get_logger(__name__)


class Acknowledgements:
    """Those of one channel, sent together at the end of a round of the event loop.

    One acknowledgement with `multiple` stands for every message up to it: so it is sent for the
    last one before which nothing is open. Those after it wait a moment for what is open, and are
    then acknowledged one by one.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        # By delivery tag, which the channel counts up: the oldest comes first.
        self._open: dict[int, Message] = {}
        self._done: set[int] = set()
        self._called = False
        self._timer: Any = None

    def expect(self, message: Message) -> None:
        """Take note of a delivery that is neither acknowledged nor rejected."""
        self._open[message.delivery_tag] = message

    def settled(self, message: Message) -> None:
        """Take note that a message was acknowledged or rejected by itself."""
        if self._is_open(message):
            del self._open[message.delivery_tag]

    def add(self, message: Message) -> None:
        """Acknowledge a message soon; one of an earlier channel is delivered again instead."""
        if not self._is_open(message):
            return
        self._done.add(message.delivery_tag)
        if not self._called:
            self._called = True
            self._consumer.hub.call_soon(self._send)

    def forget(self) -> None:
        """The connection is lost, and the broker delivers again what is open."""
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
            leading.ack_log_error(log, self._consumer.connection_errors, multiple=True)
        if self._done and self._timer is None:
            self._timer = self._consumer.hub.call_later(LONGEST_WAIT, self._send_each)

    def _send_each(self) -> None:
        self._timer = None
        for tag in sorted(self._done & self._open.keys()):
            self._open.pop(tag).ack_log_error(log, self._consumer.connection_errors)
        self._done.clear()
