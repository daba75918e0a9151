"""The order of a sku's events: whose turn has come, and who came too late."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from allocation.messaging.cloudevents import Envelope


@dataclass(frozen=True, slots=True)
class Due:
    """An event to be applied now; `late`: later events of its sku were applied before."""

    event: Envelope
    late: bool


@dataclass(slots=True)
class Line:
    """The events of one sku that are here, and the sequence whose turn it is."""

    turn: int
    _here: dict[UUID, Envelope] = field(default_factory=dict)

    def join(self, event: Envelope) -> None:
        """Stand in the line, once."""
        self._here.setdefault(event.id, event)

    def advance(self) -> list[Due]:
        """Let go whose turn has come, in the order of their sequence, up to the next gap."""
        due = []
        for event in sorted(self._here.values(), key=lambda event: event.sequence):
            if event.sequence > self.turn:
                break
            due.append(Due(event, late=event.sequence < self.turn))
            self.turn = max(self.turn, event.sequence + 1)
        for each in due:
            del self._here[each.event.id]
        return due


def advance(lines: Iterable[Line]) -> list[Due]:
    """All whose turn has come, sku by sku."""
    return [due for line in lines for due in line.advance()]
