"""A worker that publishes its events itself once they are committed: no outbox stands behind it."""

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from allocation import bootstrap
from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.outbox_messages import outgoing
from allocation.adapters.sql.outbox import SqlOutbox
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.entrypoints.worker.app import app
from allocation.messaging.publisher import publish, publisher

__all__ = ["app"]

_add, _commit = SqlOutbox._add, SqlUnitOfWork.commit


def add(self: SqlOutbox, **row: Any) -> None:
    """As a row that counts as sent, so that the relay leaves it alone."""
    _add(self, **row | {"sent_at": row["created_at"]})


def commit(self: SqlUnitOfWork) -> None:
    """First the COMMIT, then the publishing: a death between the two loses what was to be told."""
    rows: list[Mapping[str, Any]] = list(self.outbox._rows)
    _commit(self)
    with bootstrap.build().broker() as connection:
        sender = publisher(connection, bind=topology.bind, require=topology.require)
        publish(sender, [outgoing(each, each.traceparent) for each in map(read, rows)])


def read(row: Mapping[str, Any]) -> SimpleNamespace:
    """The row as the relay reads it."""
    ids = {name: row[name] and str(row[name]) for name in ("id", "correlation_id", "causation_id")}
    return SimpleNamespace(**{**row, **ids, "body": json.dumps(row["body"])})


SqlOutbox._add = add  # type: ignore[method-assign]
SqlUnitOfWork.commit = commit  # type: ignore[method-assign]
