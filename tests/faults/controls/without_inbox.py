"""A worker that carries out whatever it is sent, as often as it comes."""

from allocation.adapters.inbox import SqlInbox
from allocation.celery import app
from allocation.domain.outcomes import Outcome
from allocation.unit_of_work import Message

__all__ = ["app"]


def claim(self: SqlInbox, message: Message) -> Outcome | None:
    """Note the command, and never know it again."""
    self._insert(message)
    return None


SqlInbox.claim = claim  # type: ignore[method-assign]
