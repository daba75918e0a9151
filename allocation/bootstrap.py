"""Builds what a process needs, once, from its settings. Entry points pass it down."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from kombu import Connection
from sqlalchemy import Engine

from allocation.adapters.metrics import InboundMetrics, RelayMetrics, WorkerMetrics
from allocation.adapters.sql import database
from allocation.adapters.sql.outbox import EventPublisher
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.messaging.connection import connect, each_node
from allocation.settings import Settings


@dataclass(frozen=True)
class Dependencies:
    """A process's settings, and what is built from them."""

    settings: Settings
    engine: Engine = field(repr=False)
    """Opens connections to the configured database when they are needed."""

    @cached_property
    def worker_metrics(self) -> WorkerMetrics:
        """Made when they are first needed, as are the other metrics: a process has its own only."""
        return WorkerMetrics()

    @cached_property
    def relay_metrics(self) -> RelayMetrics:
        return RelayMetrics()

    @cached_property
    def inbound_metrics(self) -> InboundMetrics:
        return InboundMetrics()

    def unit_of_work(self, publisher: EventPublisher | None = None) -> SqlUnitOfWork:
        """A unit of work on the configured database; `publisher` gets the events it commits."""
        # Not `self.worker_metrics.locked`: a process that locks nothing has no such metrics.
        return SqlUnitOfWork(
            self.engine,
            locked=lambda each: self.worker_metrics.locked(each),
            calendar=self.settings.calendar,
            publisher=publisher,
        )

    def broker(self) -> Connection:
        """A connection to the configured broker, not open yet."""
        return connect(self.settings.broker_url, self.settings.broker_transport)

    def confirming_broker(self) -> Connection:
        """A connection of which every publish waits until the broker has the message."""
        return connect(self.settings.broker_url, self.settings.broker_transport, confirm=True)

    def brisk_brokers(self, time_limit: float) -> Iterator[Connection]:
        """Connections to RabbitMQ's nodes in turn; each step of one takes `time_limit` at most."""
        return each_node(self.settings.broker_url, confirm=False, time_limit=time_limit)


def build(settings: Settings | None = None) -> Dependencies:
    """Build a process's dependencies; without `settings` from the environment."""
    made = settings or Settings()
    pool_size = made.api_threads + 2
    return Dependencies(made, database.engine(made.database_url, pool_size=pool_size))
