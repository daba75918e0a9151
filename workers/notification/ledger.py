"""Ledgers of the pieces that have no batch: which batch they left, and whether that was mailed."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Connection, bindparam, delete, select

from allocation.messaging.database import insert_into
from workers.notification.tables import moving
from workers.order_lines import LineKey, rows_of

_STORED = select(moving)


@dataclass(frozen=True, slots=True)
class Entry:
    """Pieces that the event with this `sequence` left without a batch.

    `batchref` is the batch that they had to leave, None if they had none or were only reserved.
    `mailed`: the stock team was mailed that they wait. `qty` is None in rows of a release that did
    not store it: then the event that serves them says how many they are.
    """

    part: int
    batchref: str | None
    qty: int | None
    sequence: int
    mailed: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """What a batch serves of the pieces in a ledger."""

    moved: dict[str, int]
    """How many had to leave which other batch before, the oldest first."""
    waited: int
    """How many the stock team knows as waiting."""


class Ledger:
    """The entries of one line.

    The parts of a line that lose their batches wait together, so pieces may leave a batch under one
    number and be served under another. An event changes only the entries that are older than
    itself: one that comes late finds newer ones, which are not its own.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = list(entries)

    @property
    def entries(self) -> list[Entry]:
        """Oldest first."""
        return sorted(self._entries, key=lambda entry: entry.sequence)

    def leave(self, entry: Entry) -> None:
        """Note pieces that had to leave their batch.

        An older entry of the same part is stale: the part had a batch again in the meantime.
        """
        self.forget(entry.sequence, entry.part)
        self._entries.append(entry)

    def wait(self, part: int, qty: int, sequence: int) -> None:
        """Note that the stock team is mailed about `qty` waiting pieces, all that wait of the line.

        Pieces that no entry covers never had a batch; entries for more pieces than that are stale.
        """
        older = [entry for entry in self._before(sequence) if entry.batchref is not None]
        self.forget(sequence)
        for entry in reversed(older):
            kept = entry.qty if entry.qty is None else min(entry.qty, qty)
            if kept is None:
                qty = 0
            elif kept > 0:
                qty -= kept
            else:
                continue
            self._entries.append(replace(entry, qty=kept, mailed=True))
        if qty > 0:
            self._entries.append(Entry(part, None, qty, sequence, mailed=True))

    def resize(self, more: int, sequence: int) -> None:
        """Note that the line wants so many pieces more, or fewer if it is negative.

        Pieces that are wanted in addition wait if others do already, and those that wait are given
        up first. Otherwise, the events that follow say which batches serve what.
        """
        waiting = [entry for entry in self._before(sequence) if entry.qty is not None]
        if waiting and more > 0:
            last = waiting[-1]
            self._entries.append(Entry(last.part, None, more, sequence, mailed=last.mailed))
        fewer = max(-more, 0)
        for entry in reversed(waiting):
            assert entry.qty is not None
            pieces = min(entry.qty, fewer)
            if pieces:
                fewer -= pieces
                self._entries.remove(entry)
            if 0 < pieces < entry.qty:
                self._entries.append(replace(entry, qty=entry.qty - pieces))

    def serve(self, part: int, batchref: str, qty: int, waiting: int, sequence: int) -> Served:
        """Take out the pieces that the batch serves by this event.

        The part's own pieces are taken first, then those that left the same batch. Then come those
        that the stock team was not mailed about: they have just left their batches. Among them, the
        pieces of the events directly before this one belong to the same step, such as another part
        that joins this one. Otherwise the oldest come first. Pieces that no entry covers were not
        lost: the batch served them before, or the event about their loss is missing.

        `waiting` pieces of the line still wait after the step, 0 if none do or that is not known;
        they limit how many can be taken.
        """
        older = self._before(sequence)
        if not older:
            return Served({}, 0)
        known = [entry.qty for entry in older if entry.qty is not None]
        if len(known) == len(older) and sum(known) >= waiting > 0:
            qty = min(qty, sum(known) - waiting)
        step = _run(older, sequence)
        older.sort(
            key=lambda entry: (
                entry.part != part,
                entry.batchref != batchref,
                entry.mailed,
                entry.sequence not in step,
                entry.sequence,
            )
        )
        taken: list[tuple[Entry, int]] = []
        for entry in older:
            pieces = qty if entry.qty is None else min(entry.qty, qty)
            if pieces == 0:
                break
            qty -= pieces
            taken.append((entry, pieces))
            self._entries.remove(entry)
            if entry.qty is not None and entry.qty > pieces:
                self._entries.append(replace(entry, qty=entry.qty - pieces))
        moved: dict[str, int] = {}
        for entry, pieces in sorted(taken, key=lambda each: each[0].sequence):
            if entry.batchref is not None and entry.batchref != batchref:
                moved[entry.batchref] = moved.get(entry.batchref, 0) + pieces
        return Served(moved, sum(pieces for entry, pieces in taken if entry.mailed))

    def pull(self, part: int, sequence: int) -> list[Entry]:
        """Take out the part's pieces."""
        own = [entry for entry in self._before(sequence) if entry.part == part]
        self.forget(sequence, part)
        return own

    def forget(self, sequence: int, part: int | None = None) -> None:
        """Drop the entries, all or those of one part."""
        self._entries = [
            entry
            for entry in self._entries
            if entry.sequence >= sequence or part not in (None, entry.part)
        ]

    def left_since(self, part: int, sequence: int) -> bool:
        """Whether the part had to leave its batch after this event."""
        return any(
            entry.part == part and entry.sequence > sequence and entry.batchref is not None
            for entry in self._entries
        )

    def _before(self, sequence: int) -> list[Entry]:
        return (
            [entry for entry in self.entries if entry.sequence < sequence] if self._entries else []
        )


def _run(entries: Iterable[Entry], sequence: int) -> set[int]:
    """The consecutive sequences of entries directly before this one."""
    known = {entry.sequence for entry in entries}
    run: set[int] = set()
    while sequence - 1 in known:
        sequence -= 1
        run.add(sequence)
    return run


Entries = Mapping[LineKey, Collection[Entry]]


def read(connection: Connection, lines: Collection[LineKey]) -> Entries:
    """The stored entries of at least these lines."""
    entries: defaultdict[LineKey, list[Entry]] = defaultdict(list)
    for row in rows_of(connection, _STORED, lines):
        entry = Entry(row.part, row.batchref, row.qty, row.sequence, row.told)
        entries[row.orderid, row.sku].append(entry)
    return entries


def save(connection: Connection, before: Entries, after: Mapping[LineKey, Ledger]) -> None:
    """Write what the ledgers changed since `before` was read."""
    columns = moving.c
    old = {(line, entry) for line in after for entry in before.get(line, ())}
    new = {(line, entry) for line, ledger in after.items() for entry in ledger.entries}
    if removed := old - new:
        connection.execute(
            delete(moving).where(
                columns.orderid == bindparam("order"),
                columns.sku == bindparam("of"),
                columns.sequence == bindparam("number"),
            ),
            [
                {"order": orderid, "of": sku, "number": entry.sequence}
                for (orderid, sku), entry in removed
            ],
        )
    if added := new - old:
        connection.execute(
            insert_into(moving, connection.dialect.name),
            [
                {
                    "orderid": orderid,
                    "sku": sku,
                    "sequence": entry.sequence,
                    "part": entry.part,
                    "batchref": entry.batchref,
                    "qty": entry.qty,
                    "told": entry.mailed,
                }
                for (orderid, sku), entry in added
            ],
        )
