"""Celery's task and worker events: told when that costs nothing, dropped rather than waited for."""

from contextlib import suppress
from typing import Any

from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher

BUFFER = 500
"""Events of tasks that are told by one message, at most."""


class Dispatcher(EventDispatcher):
    """Events are for Flower's eyes; the worker's one main loop sends them.

    So they are not confirmed, and while the broker is short of memory or disk and takes nothing,
    they are dropped: else the loop would stand still, and with it acknowledgements, remote control
    and SIGTERM.
    """

    def __init__(self, connection: Any = None, *args: Any, **options: Any) -> None:
        self._blocked = False
        if connection is not None and connection.transport.driver_type == "amqp":
            changed = {
                "confirm_publish": False,
                "on_blocked": self._on_blocked,
                "on_unblocked": self._on_unblocked,
            }
            # For the connection as it is, and for those that follow when it breaks.
            connection.transport_options = {**connection.transport_options, **changed}
            for name, value in changed.items():
                setattr(connection.connection, name, value)
        super().__init__(connection, *args, **{**options, "buffer_limit": BUFFER})

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        if self._blocked:
            with suppress(TimeoutError):  # nothing to read: no news
                self.connection.drain_events(timeout=0)
        if not self._blocked:
            super()._publish(event, producer, routing_key, **options)

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False


class Events(CeleryEvents):
    """What `app.events` makes."""

    dispatcher_cls = f"{__name__}:{Dispatcher.__name__}"
