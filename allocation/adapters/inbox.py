"""Inbox and outbox: what came in, and what is to go out, as rows of the same transaction."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from sqlalchemy import Update, select, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.orm import Session

from allocation.adapters import contract, tables
from allocation.adapters.database import insert
from allocation.domain.commands import Malformed
from allocation.domain.events import Event
from allocation.domain.outcomes import Outcome, Refused, Succeeded
from allocation.unit_of_work import CommandConflict, ConcurrentUpdate, Message

Clock = Callable[[], datetime]


class SqlOutbox:
    """Rows that the relay sends on once they are committed; written together by `flush`."""

    def __init__(self, session: Session, now: Clock) -> None:
        self._session = session
        self._now = now
        self._rows: list[dict[str, object]] = []

    def add(self, event: Event, cause: Message) -> None:
        created_at = self._now()
        body = contract.cloud_event(
            event,
            time=created_at,
            causation_id=cause.id,
            causation_type=contract.command_name(cause.command),
            correlation_id=cause.correlation_id,
        )
        self._add(
            id=contract.event_id(body),
            kind="event",
            name=body["type"],
            sku=body["subject"],
            sequence=event.sequence,
            body=body,
            correlation_id=cause.correlation_id,
            causation_id=cause.id,
            created_at=created_at,
        )

    def add_command(self, message: Message) -> None:
        body = contract.command_body(message.command)
        self._add(
            id=message.id,
            kind="command",
            name=contract.command_name(message.command),
            sku=body.get("sku"),
            sequence=None,
            body=body,
            correlation_id=message.correlation_id,
            causation_id=message.causation_id,
            created_at=self._now(),
        )

    def flush(self) -> bool:
        """Write the rows, in the order in which they were added; False when there are none."""
        rows, self._rows = self._rows, []
        if rows:
            self._session.execute(plain_insert(tables.outbox), rows)
        return bool(rows)

    def _add(self, **row: object) -> None:
        self._rows.append(row)


class SqlInbox:
    """One row a command: pending when it was accepted here, with its outcome once decided."""

    def __init__(self, session: Session, outbox: SqlOutbox, now: Clock) -> None:
        self._session = session
        self._outbox = outbox
        self._now = now

    def accept(self, message: Message) -> None:
        if self._insert(message):
            self._outbox.add_command(message)
        else:
            self._known(message)

    def claim(self, message: Message) -> Outcome | None:
        if self._insert(message):
            return None
        return self._known(message)

    def record(self, message: Message, outcome: Outcome) -> None:
        self._session.execute(
            update(tables.commands)
            .where(tables.commands.c.id == message.id)
            .values(**_columns(outcome), decided_at=self._now())
        )

    def record_failure(self, message: Message, error: str) -> None:
        # Of what can't be read here only the id is sure: a newer worker knows its body otherwise.
        if not isinstance(message.command, Malformed):
            self._insert(message)
        self._session.execute(
            _undecided(message.id).values(
                status="failed", outcome={"error": error}, decided_at=self._now()
            )
        )

    def give_up(self, command_id: UUID, refusal: Refused) -> bool:
        given_up = self._session.scalar(
            _undecided(command_id)
            .values(**_columns(refusal), decided_at=self._now())
            .returning(tables.commands.c.id)
        )
        return given_up is not None

    def _insert(self, message: Message) -> bool:
        """False when the id is there; waits while another transaction is about to insert it."""
        statement = (
            insert(self._session.connection(), tables.commands)
            .values(
                id=message.id,
                name=contract.command_name(message.command),
                body=contract.command_body(message.command),
                status="pending",
                correlation_id=message.correlation_id,
                causation_id=message.causation_id,
                accepted_at=self._now(),
            )
            .on_conflict_do_nothing(index_elements=["id"])
            .returning(tables.commands.c.id)
        )
        return self._session.scalar(statement) is not None

    def _known(self, message: Message) -> Outcome | None:
        row = self._session.execute(
            select(tables.commands).where(tables.commands.c.id == message.id).with_for_update()
        ).one_or_none()
        if row is None:
            raise ConcurrentUpdate(f"command {message.id} was past its time and is forgotten now")
        name = contract.command_name(message.command)
        if (row.name, row.body) != (name, contract.command_body(message.command)):
            raise CommandConflict(
                f"command {message.id} is known as {row.name} with another body"
                " and keeps its first meaning: send this one with an id of its own"
            )
        if row.status == "succeeded":
            return Succeeded(**row.outcome)
        if row.status == "rejected":
            return Refused(**row.outcome)
        return None


def _columns(outcome: Outcome) -> dict[str, object]:
    facts = dict(outcome.facts)
    if isinstance(outcome, Refused):
        return {"status": "rejected", "outcome": {"reason": outcome.reason, **facts}}
    return {"status": "succeeded", "outcome": facts}


def _undecided(command_id: UUID) -> Update:
    columns = tables.commands.c
    return update(tables.commands).where(
        columns.id == command_id, columns.status.in_(["pending", "failed"])
    )
