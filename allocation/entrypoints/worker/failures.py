"""What becomes of a command whose task has ended: its message is acknowledged, or set aside."""

from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.exceptions import Reject
from celery.worker.request import Request
from celery.worker.state import revoked

from allocation.adapters.rabbitmq import topology
from allocation.adapters.spool.transport import Channel as SpoolChannel
from allocation.contract.codec import UnknownFields
from allocation.entrypoints.worker.app import mover
from allocation.messaging.dead_letters import Details


class CommandRequest(Request):
    """Celery's request, but what it rejects for good becomes a dead letter that says why.

    Celery itself knows the exception, and the broker would move the message without it. What was
    revoked or came too late is set aside too: nothing that was accepted is dropped.
    """

    acknowledged: bool
    _failure: ExceptionInfo | None = None

    def on_failure(self, exc_info: ExceptionInfo, *args: Any, **options: Any) -> Any:
        self._failure = exc_info
        return super().on_failure(exc_info, *args, **options)

    def reject(self, requeue: bool = False) -> None:
        if requeue and isinstance(self._exception(), Reject):
            self._give_back()
        elif requeue or self.acknowledged or not self._bury(self._facts_of_failure()):
            super().reject(requeue)
        else:
            self.acknowledge()

    def maybe_expire(self) -> bool:
        """Celery remembers what came too late as revoked, and would not take it when replayed."""
        known = self.id in revoked
        expired = bool(super().maybe_expire())
        if expired and not known:
            revoked.discard(self.id)
        return expired

    def _announce_revoked(
        self, reason: str, terminated: bool, signum: object, expired: bool
    ) -> None:
        if not self.acknowledged:
            error = f"the command was {reason} before it was decided"
            if not self._bury({"reason": reason, "error": error}):
                super().reject(requeue=False)
        super()._announce_revoked(reason, terminated, signum, expired)

    def _give_back(self) -> None:
        """Requeue what the task can't decide now; the embedded broker counts no delivery."""
        channel = self._message.channel
        if isinstance(channel, SpoolChannel) and not self.acknowledged:
            channel.qos.give_back(self._message.delivery_tag)
            self.acknowledged = True
        else:
            super().reject(requeue=True)

    def _exception(self) -> object:
        exception = getattr(self._failure, "exception", None)
        return getattr(exception, "exc", exception)

    def _bury(self, details: Details) -> bool:
        return mover().dead_letter(self._message, topology.DEAD, details)

    def _facts_of_failure(self) -> Details:
        now = datetime.now(UTC).isoformat()
        failure = self._failure
        cause = self._exception()
        return {
            "reason": "unknown field" if isinstance(cause, UnknownFields) else "failed",
            "error": f"{type(cause).__name__}: {cause}".partition("\n")[0][:1000],
            "traceback": str(getattr(failure, "traceback", ""))[-4000:],
            "attempts": self.request_dict.get("retries", 0) + 1,
            "first": self.request_dict.get("first_failed_at") or now,
            "last": now,
        }
