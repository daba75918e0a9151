"""The inbox: each command by its id, accepted once and decided once."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Update, update

from allocation.adapters.sql import tables
from allocation.adapters.sql.locking import Row, recorded
from allocation.adapters.sql.outbox import NOTIFY_CHANNEL, SqlOutbox
from allocation.contract import codec
from allocation.domain.commands import Malformed
from allocation.domain.outcomes import Outcome, Refused, Succeeded
from allocation.messaging.database import is_postgresql
from allocation.messaging.statements import Writes, as_json, prepared
from allocation.messaging.statements import add_new as add_new_rows
from allocation.service_layer.unit_of_work import CommandConflict, ConcurrentUpdate, Message

# To accept commands is most of the API's work, so it is one message to the database. Rows of the
# inbox are inserted by id: two transactions with the same ids don't deadlock. A command that names
# only a batch belongs to the batch's product, also while the batch is about to be created: by it
# a partition is chosen.
_ACCEPT_NEW = """
    WITH given AS (
        SELECT * FROM ROWS FROM (json_to_recordset($1) AS (
            id uuid, name text, body json, sku text,
            correlation_id uuid, causation_id uuid, accepted_at timestamptz, traceparent text
        )) WITH ORDINALITY
    ), accepted AS (
        INSERT INTO commands (id, name, body, status, correlation_id, causation_id, accepted_at)
        SELECT id, name, body, 'pending', correlation_id, causation_id, accepted_at
        FROM given ORDER BY id
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    ), sent AS (
        INSERT INTO outbox
            (id, kind, name, sku, body, correlation_id, causation_id, created_at, traceparent)
        SELECT
            id, 'command', name, coalesce(sku, (
                SELECT batches.sku FROM batches WHERE batchref = given.body->>'batchref'
            ), (
                SELECT recent.body->>'sku' FROM (
                    SELECT name, body FROM commands WHERE status = 'pending'
                    ORDER BY commands.accepted_at DESC LIMIT 1000
                ) AS recent
                WHERE given.body->>'orderid' IS NULL AND recent.name = 'allocation.create_batch'
                    AND recent.body->>'batchref' = given.body->>'batchref'
                LIMIT 1
            )), body, correlation_id, causation_id, accepted_at, traceparent
        FROM given JOIN accepted USING (id) ORDER BY ordinality
    )
    SELECT id, pg_notify($2, '') FROM accepted"""


class SqlInbox:
    """One row a command: pending when it was accepted here, with its outcome once decided."""

    def __init__(
        self, connection: Connection, outbox: SqlOutbox, now: Callable[[], datetime]
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._now = now
        self._recorded: set[UUID] = set()
        self._inserts: list[Row] = []
        self._updates: list[Row] = []
        self._has_decided = False

    def accept(self, messages: Sequence[Message]) -> set[UUID]:
        new = self._accept_new(messages)
        old = {message.id: message for message in messages if message.id not in new}
        known = self._known(list(old.values()), self._rows_of(old.keys()))
        if known.keys() != old.keys():
            raise ConcurrentUpdate("a command was deleted while it was sent again")
        for command_id, row in known.items():
            if row["correlation_id"] != old[command_id].correlation_id:
                raise CommandConflict(
                    f"command {command_id} was accepted before as part of another request"
                )
        return new

    def claim(self, messages: Sequence[Message], rows: Sequence[Row]) -> dict[UUID, Outcome | None]:
        """Take the commands; `rows` are the known ones, locked until this transaction ends.

        Returns the outcomes of these. Raises CommandConflict.
        """
        known = self._known(messages, rows)
        self._recorded.update(known)
        return {each: _outcome(row["status"], row["outcome"]) for each, row in known.items()}

    def record(self, message: Message, outcome: Outcome) -> None:
        decided = {**_columns(outcome), "decided_at": self._now()}
        if message.id in self._recorded:
            self._updates.append({"id": message.id, **decided})
        else:
            self._inserts.append(self._row(message) | decided)

    def write(self, changes: Writes) -> bool:
        """Add to `changes` what was recorded; whether a command that was accepted got an outcome.

        An id that another transaction recorded meanwhile is an error when they are sent.
        """
        has_decided = self._has_decided or bool(self._updates)
        # In the order of their ids: two transactions with the same ids don't deadlock.
        changes.add(tables.commands, sorted(self._inserts, key=lambda row: str(row["id"])))
        changes.change(tables.commands, self._updates)
        self._inserts, self._updates, self._has_decided = [], [], False
        return has_decided

    def record_failure(self, message: Message, error: str) -> None:
        # Only the id of an invalid command is sure: a newer worker may know its body.
        if not isinstance(message.command, Malformed):
            self._insert([message])
        self._connection.execute(
            _undecided(message.id).values(
                status="failed", outcome={"error": error}, decided_at=self._now()
            )
        )
        self._has_decided = True

    def give_up(self, command_id: UUID, refusal: Refused) -> bool:
        given_up = self._connection.scalar(
            _undecided(command_id)
            .values(**_columns(refusal), decided_at=self._now())
            .returning(tables.commands.c.id)
        )
        self._has_decided = given_up is not None
        return self._has_decided

    def _row(self, message: Message) -> dict[str, object]:
        return {
            "id": message.id,
            "name": codec.command_name(message.command),
            "body": codec.command_body(message.command),
            "correlation_id": message.correlation_id,
            "causation_id": message.causation_id,
            "accepted_at": self._now(),
        }

    def _accept_new(self, messages: Sequence[Message]) -> set[UUID]:
        """Record the new commands and add them to the outbox; returns their ids."""
        if messages and is_postgresql(self._connection):
            rows = [
                self._row(each)
                | {"sku": getattr(each.command, "sku", None), "traceparent": each.traceparent}
                for each in messages
            ]
            planned = prepared(self._connection, _ACCEPT_NEW, "json, text")
            accepted = self._connection.exec_driver_sql(
                f"EXECUTE {planned} (%(rows)s, %(channel)s)",
                {"rows": as_json(rows), "channel": NOTIFY_CHANNEL},
            )
            return set(accepted.scalars())
        new = self._insert(messages)
        for message in messages:
            if message.id in new:
                self._outbox.add_command(message)
        return new

    def _insert(self, messages: Sequence[Message]) -> set[UUID]:
        """Insert the new ids; waits while another transaction is about to insert one of them."""
        if not messages:
            return set()
        rows = [self._row(message) | {"status": "pending"} for message in messages]
        rows.sort(key=lambda row: str(row["id"]))
        return add_new_rows(self._connection, tables.commands, rows)

    def _rows_of(self, ids: Collection[UUID]) -> Sequence[Row]:
        """The rows of these commands, which are locked until this transaction ends."""
        if not ids:
            return []
        query = recorded(self._connection.dialect.name)
        return [row._mapping for row in self._connection.execute(query, {"ids": list(ids)})]

    def _known(self, messages: Sequence[Message], rows: Sequence[Row]) -> dict[UUID, Row]:
        """The rows by id; raises CommandConflict if a message says otherwise, or two of an id."""
        known = {row["id"]: row for row in rows}
        meanings: dict[UUID, tuple[str, codec.Json]] = {
            each: (row["name"], row["body"]) for each, row in known.items()
        }
        first: dict[UUID, Message] = {}
        for message in messages:
            if message.id not in meanings:
                # To write a command as JSON takes long, and few ids come twice.
                if (other := first.setdefault(message.id, message)) is message:
                    continue
                meanings[message.id] = _meaning(other)
            if meanings[message.id] != _meaning(message):
                name, _ = meanings[message.id]
                raise CommandConflict(
                    f"command {message.id} was accepted before as {name} with another body, and"
                    " stays as it was: send this command with a new id"
                )
        return known


def _meaning(message: Message) -> tuple[str, codec.Json]:
    return codec.command_name(message.command), codec.command_body(message.command)


def _outcome(status: str, facts: codec.Json) -> Outcome | None:
    if status == "succeeded":
        return Succeeded(**facts)
    if status == "rejected":
        return Refused(**facts)
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
