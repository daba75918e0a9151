"""What happens to a command: it is accepted, then executed once, or fails and may be dropped."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, tzinfo
from uuid import NAMESPACE_OID, UUID, uuid5

from allocation.domain.commands import Command, FollowUp
from allocation.domain.outcomes import Outcome, Refused
from allocation.service_layer.handlers import HANDLERS
from allocation.service_layer.unit_of_work import Message, UnitOfWork


def accept(message: Message, uow: UnitOfWork) -> None:
    """Take responsibility for a command: once this returns, it is not lost. Repeats do nothing."""
    accept_batch([message], uow)


def accept_batch(messages: Sequence[Message], uow: UnitOfWork) -> set[UUID]:
    """Accept many commands by one commit: all, or none; returns the ids that are new."""
    with uow:
        new = uow.inbox.accept(messages)
        uow.commit()
    return new


def execute(message: Message, uow: UnitOfWork) -> Outcome:
    """Execute a command once: a repeat gets the recorded outcome.

    One commit saves stock, outcome, events and follow-ups. Raises what the unit of work raises;
    then nothing was saved.
    """
    return execute_batch([message], uow)[0]


def execute_batch(messages: Sequence[Message], uow: UnitOfWork) -> list[Outcome]:
    """Execute many commands in this order by one commit: all are saved, or none is.

    A refusal of one does not affect the others.
    """
    with uow:
        known = uow.claim(messages)
        outcomes = {each: outcome for each, outcome in known.items() if outcome is not None}
        follow_ups: dict[FollowUp, Message] = {}
        for message in messages:
            if message.id not in outcomes:
                # The rule for new ids does not hold for what was accepted before.
                command = message.command.meant if message.id in known else message.command
                outcomes[message.id] = _handle(command, message, uow, follow_ups)
        # Each follow-up once, caused by the last command that asked for it.
        uow.inbox.accept(
            [_caused(each, cause) for each, cause in follow_ups.items() if each.due_at is None]
        )
        for each, cause in follow_ups.items():
            if each.due_at is not None:
                uow.outbox.schedule(_caused(each, cause), moment(each.due_at, uow.calendar))
        uow.commit()
    return [outcomes[message.id] for message in messages]


def fail(message: Message, error: str, uow: UnitOfWork) -> None:
    """Record that the command could not be executed; delivered again, it may still be."""
    with uow:
        uow.inbox.record_failure(message, error)
        uow.commit()


def drop(command_id: UUID, uow: UnitOfWork) -> bool:
    """Refuse a command without an outcome for good; False when there is none of this id."""
    with uow:
        dropped = uow.inbox.give_up(command_id, Refused("dropped", field="id"))
        uow.commit()
    return dropped


def _handle(
    command: Command, message: Message, uow: UnitOfWork, follow_ups: dict[FollowUp, Message]
) -> Outcome:
    """Call the command's handler; record its outcome and events, and add its follow-ups."""
    outcome = HANDLERS[type(command)](command, uow)
    for product in uow.products.pull_seen():
        for event in product.pull_events():
            uow.outbox.add(event, message)
        follow_ups |= dict.fromkeys(product.pull_follow_ups(), message)
    uow.inbox.record(message, outcome)
    return outcome


def moment(due_at: datetime | date, calendar: tzinfo) -> datetime:
    """The moment itself, or the one in which the day begins."""
    if isinstance(due_at, datetime):
        return due_at
    # No time zone moves these days out of what a datetime can be.
    day = min(max(due_at, date(1970, 1, 1)), date(9999, 12, 30))
    return datetime.combine(day, time.min, calendar).astimezone(UTC)


def _caused(command: FollowUp, cause: Message) -> Message:
    return Message(
        # Derived, so that the same cause never asks for the same twice.
        id=uuid5(NAMESPACE_OID, f"{cause.id} {command!r}"),
        command=command,
        correlation_id=cause.correlation_id,
        causation_id=cause.id,
        traceparent=cause.traceparent,
    )
