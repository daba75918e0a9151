"""What a command would do: it is executed in a unit of work that is never committed."""

from collections import deque
from dataclasses import dataclass

from allocation.domain.commands import Command
from allocation.domain.events import Event
from allocation.domain.outcomes import Outcome
from allocation.service_layer.execution import moment
from allocation.service_layer.handlers import HANDLERS
from allocation.service_layer.unit_of_work import UnitOfWork

FOLLOW_UPS = 20
"""Follow-ups that a preview executes at most: it bounds how long products stay locked."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a command would answer, and the events of it and of its follow-ups, in order.

    `complete`: no follow-up is left that would be due at once; else the events are only the first.
    """

    outcome: Outcome
    events: tuple[Event, ...]
    complete: bool = True


def preview(command: Command, uow: UnitOfWork, follow_ups: int = FOLLOW_UPS) -> Preview:
    """Execute the command and the follow-ups that are due at once, and save nothing.

    The products are locked meanwhile, as by the command itself. Raises what the unit of work
    raises.
    """
    events: list[Event] = []
    due: deque[Command] = deque()

    def decide(command: Command) -> Outcome:
        outcome = HANDLERS[type(command)](command, uow)
        for product in uow.products.pull_seen():
            events.extend(product.pull_events())
            for each in product.pull_follow_ups():
                is_due = each.due_at is None or moment(each.due_at, uow.calendar) <= uow.now()
                if is_due and each not in due:
                    due.append(each)
        return outcome

    with uow:
        uow.products.load([command])
        outcome = decide(command)
        for _ in range(follow_ups):
            if due:
                decide(due.popleft())
    return Preview(outcome, tuple(events), complete=not due)
