"""What a command would do to order lines, from the events of its preview."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby

from allocation.domain.books import arrival
from allocation.domain.commands import CancelOrder, Command
from allocation.domain.events import (
    Allocated,
    Deallocated,
    Event,
    LineQuantityChanged,
    PromiseChanged,
    ReservationReleased,
    Reserved,
)

WAITS, LATER, GIVEN_UP, MOVED, EARLIER, SERVED = (
    *("waits", "later", "given up"),
    *("moved", "earlier", "served"),
)
KINDS = (WAITS, LATER, GIVEN_UP, MOVED, EARLIER, SERVED)
"""What may become of a line, the worst first."""

Days = Mapping[str, date | None]


@dataclass(frozen=True, slots=True)
class Effect:
    """What becomes of one order line, all decisions together.

    `lost` and `gained` are pieces by batch. `waiting` pieces of those that are lost wait, and
    `given_up` ones are wanted no more. `old` and `new` are the days on which it comes, None for the
    shelf; they say something only of a line that comes later, earlier, or from another batch.
    """

    orderid: str
    sku: str
    kind: str
    lost: Mapping[str, int]
    gained: Mapping[str, int]
    waiting: int = 0
    given_up: int = 0
    old: date | None = None
    new: date | None = None


@dataclass
class _Line:
    lost: Counter[str] = field(default_factory=Counter)
    gained: Counter[str] = field(default_factory=Counter)
    new_days: dict[str, date | None] = field(default_factory=dict)
    gave_up_waiting: int = 0
    wanted_less: int = 0
    changes: list[PromiseChanged] = field(default_factory=list)


def effects(command: Command, events: Iterable[Event], days: Days, today: date) -> list[Effect]:
    """Every line that the events change, the worst first; `days` has the batches' ETAs before."""
    lines: dict[tuple[str, str], _Line] = {}
    for event in events:
        _note(event, lines)
    found = [
        effect
        for (orderid, sku), line in lines.items()
        if (effect := _effect(command, orderid, sku, line, days, today))
    ]
    return sorted(found, key=lambda effect: KINDS.index(effect.kind))


def batches_of(events: Iterable[Event]) -> set[str]:
    """The batches that the events name: `effects` needs their days."""
    return {ref for event in events if (ref := getattr(event, "batchref", None))}


def by_kind(found: Iterable[Effect]) -> Iterator[tuple[str, list[Effect]]]:
    """The effects of each kind that there is."""
    return ((kind, list(group)) for kind, group in groupby(found, key=lambda each: each.kind))


def _note(event: Event, lines: dict[tuple[str, str], _Line]) -> None:
    match event:
        case Deallocated() | ReservationReleased():
            line = lines.setdefault((event.orderid, event.sku), _Line())
            if event.batchref is None:
                line.gave_up_waiting += event.qty
            else:
                line.lost[event.batchref] += event.qty
        case Allocated() | Reserved():
            line = lines.setdefault((event.orderid, event.sku), _Line())
            line.gained[event.batchref] += event.qty
            line.new_days[event.batchref] = event.eta
        case PromiseChanged():
            lines.setdefault((event.orderid, event.sku), _Line()).changes.append(event)
        case LineQuantityChanged():
            line = lines.setdefault((event.orderid, event.sku), _Line())
            line.wanted_less += event.old_qty - event.qty


def _effect(
    command: Command, orderid: str, sku: str, line: _Line, days: Days, today: date
) -> Effect | None:
    # What a batch gives back to the line that lost it is no change.
    lost, gained = line.lost - line.gained, line.gained - line.lost
    missing = lost.total() - gained.total()
    cancelled = isinstance(command, CancelOrder) and command.orderid == orderid
    given_up = missing if cancelled else min(max(line.wanted_less, 0), max(missing, 0))
    waiting = max(missing - given_up, 0)
    given_up += line.gave_up_waiting

    def rank(day: date | None) -> tuple[bool, date]:
        return day is not None and day < today, arrival(day)

    if line.changes:
        old, new = line.changes[0].old_eta, line.changes[-1].new_eta
    else:
        old = max((days.get(ref) for ref in lost), key=rank, default=None)
        new = max((line.new_days[ref] for ref in gained), key=rank, default=None)
    if waiting:
        kind = WAITS
    elif given_up:
        kind = GIVEN_UP
    elif missing < 0 and not (lost and rank(new) > rank(old)):
        kind = SERVED
    elif lost or line.changes:
        kind = MOVED if rank(new) == rank(old) else LATER if rank(new) > rank(old) else EARLIER
    else:
        return None
    return Effect(orderid, sku, kind, lost, gained, waiting, given_up, old, new)
