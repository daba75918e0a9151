"""A worker that carries out whatever it is sent, as often as it comes."""

from collections.abc import Sequence
from uuid import UUID

from allocation.adapters.sql.inbox import SqlInbox
from allocation.adapters.sql.locking import Row
from allocation.domain.outcomes import Outcome
from allocation.entrypoints.worker.app import app
from allocation.service_layer.unit_of_work import Message

__all__ = ["app"]


def claim(
    self: SqlInbox, messages: Sequence[Message], rows: Sequence[Row]
) -> dict[UUID, Outcome | None]:
    """Note the commands, and never know them again."""
    self._insert(messages)
    self._recorded.update(message.id for message in messages)
    return {}


SqlInbox.claim = claim  # type: ignore[method-assign]
