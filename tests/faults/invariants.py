"""What must hold after every fault, once things are quiet: I1 to I5, computed without our rules."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, text

from allocation.adapters.sql import audit
from tests.faults.history import Letter, dead_letters
from tests.faults.load import Load
from tests.faults.system import System

Line = tuple[str, str]
"""The order's id and the sku."""
Part = tuple[str, str, int]
_TAKING = ("allocation.allocate", "allocation.reserve")
_CANCELLING = ("allocation.deallocate", "allocation.cancel_order")
_UNSENT = "SELECT 1 AS one FROM outbox WHERE sent_at IS NULL"
MUST_SUCCEED = ("allocation.create_batch", "allocation.allocate", "allocation.reserve")
"""Every load is made so that no rule refuses these."""


@dataclass(frozen=True, slots=True)
class Breach:
    """`about` names the message, line or product concerned."""

    promise: str
    about: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise} {self.about}: {self.what}"


@dataclass
class Books:
    """Everything that the system says, read once it is quiet."""

    commands: dict[str, Any]
    lines: dict[Line, list[Any]]
    """The parts of each line."""
    events: list[Any]
    dead: list[Letter]
    picks: dict[tuple[str, int], Any]
    mails: dict[str, str]
    received: dict[str, list[Any]]
    progress: dict[str, dict[str, int]]
    """The next sequence of each sku, by subscriber."""
    held: dict[str, int]
    batches: list[Any]
    unsent: int
    proofs: list[audit.Result] = field(default_factory=list)


def read(system: System) -> Books:
    """Read the books of all three databases and the dead letters."""
    commands = _rows(system.engine, "SELECT * FROM commands")
    lines = _rows(system.engine, "SELECT * FROM allocations")
    picks = _rows(system.warehouse, "SELECT * FROM picks")
    mails = _rows(system.notification, "SELECT event_id, team FROM mails WHERE status <> 'failed'")
    subscribers = {"warehouse": system.warehouse, "notification": system.notification}
    received = {name: _rows(each, "SELECT * FROM received") for name, each in subscribers.items()}
    return Books(
        commands={str(row.id): row for row in commands},
        lines=_by_line(lines),
        events=_rows(
            system.engine, "SELECT * FROM outbox WHERE kind = 'event' ORDER BY sku, sequence"
        ),
        dead=dead_letters(system.addresses.broker),
        picks={(row.sku, row.opened_sequence): row for row in picks},
        mails={str(row.event_id): row.team for row in mails},
        received=received,
        progress={
            name: {row.sku: row.next_sequence for row in _rows(each, "SELECT * FROM progress")}
            for name, each in subscribers.items()
        },
        held={name: sum(row.held is not None for row in rows) for name, rows in received.items()},
        batches=_rows(
            system.engine,
            "SELECT b.*, (SELECT coalesce(sum(qty - dispatched_qty), 0) FROM allocations a"
            " WHERE a.batchref = b.batchref AND NOT a.dispatched) AS of_lines FROM batches b",
        ),
        unsent=len(_rows(system.engine, _UNSENT)),
        proofs=list(audit.run(system.engine)),
    )


def breaches(
    system: System, load: Load, *, failed: Iterable[str] = (), dead_events: int = 0
) -> list[Breach]:
    """Everything that breaks a promise.

    `failed` are the commands that the scenario itself made impossible; `dead_events` how many dead
    letters it meant the subscribers to have.
    """
    books = read(system)
    return [
        *_stock(books),
        *_departures(books),
        *_lines(books, load, set(failed)),
        *_events(books, dead_events),
        *_order(books),
        *_accounts(books, load, set(failed)),
        *_proofs(books, set(failed)),
    ]


def _stock(books: Books) -> Iterator[Breach]:
    for row in books.batches:
        if not 0 <= row.allocated <= row.purchased:
            yield Breach("I1", row.batchref, f"{row.allocated} promised of {row.purchased}")
        if row.allocated != row.of_lines:
            yield Breach("I1", row.batchref, f"counts {row.allocated}, its lines {row.of_lines}")
        if row.allocated and (row.blocked or row.expired):
            yield Breach("I1", row.batchref, f"promises {row.allocated}, and may serve nobody")


def _departures(books: Books) -> Iterator[Breach]:
    """Goods leave only from what is there, and no more come back than have left."""
    away: set[str] = set()
    blocked: set[str] = set()
    good_until: dict[str, str] = {}
    out = Counter[Line]()
    for event in (row.body for row in books.events):
        kind, data = event["type"].split(".")[1], event["data"]
        batchref = data.get("batchref")
        if kind in ("batch_created", "batch_eta_changed"):
            (away.add if data.get("eta") else away.discard)(batchref)
        if kind in ("batch_created", "best_before_changed"):
            good_until[batchref] = data.get("best_before") or "9999-12-31"
        if kind == "batch_blocked":
            blocked.add(batchref)
        elif kind == "batch_unblocked":
            blocked.discard(batchref)
        elif kind == "dispatched":
            out[data["orderid"], data["sku"]] += data["qty"]
            if batchref in away | blocked or good_until[batchref] < event["time"][:10]:
                yield Breach("I1", batchref, f"{event['id']}: goods left that were not there")
        elif kind == "returned":
            out[data["orderid"], data["sku"]] -= data["qty"]
            if out[data["orderid"], data["sku"]] < 0:
                yield Breach("I1", data["orderid"], f"{event['id']}: more came back than left")


def _lines(books: Books, load: Load, failed: set[str]) -> Iterator[Breach]:
    """Each accepted line is on the books with the quantity that it wants, or is a dead letter.

    Of a line that was given up, only the pieces that have left are.
    """
    given_up = {
        (row.body["orderid"], row.body["sku"])
        for row in books.commands.values()
        if row.name == "allocation.deallocate" and row.status == "succeeded"
    }
    whole_orders = {
        row.body["orderid"]
        for row in books.commands.values()
        if row.name in ("allocation.release", "allocation.cancel_order")
        and row.status == "succeeded"
    }
    wanted: dict[Line, int] = {}
    gone = Counter[Line]()
    for event in (row.body for row in books.events):
        data = event["data"]
        if event["type"] == "allocation.line_quantity_changed.v1":
            wanted[data["orderid"], data["sku"]] = data["qty"]
        elif event["type"] == "allocation.dispatched.v1":
            gone[data["orderid"], data["sku"]] += data["qty"]
    for key, sent in load.confirmed().items():
        row = books.commands.get(str(key))
        if sent.name not in _TAKING or str(key) in failed or row is None:
            continue
        line = (sent.body["orderid"], sent.body["sku"])
        parts = books.lines.get(line, [])
        total, left = sum(part.qty for part in parts), sum(_gone(part) for part in parts)
        if line in given_up or line[0] in whole_orders:
            due = gone[line]
        else:
            due = wanted.get(line, sent.body["qty"]) if row.status == "succeeded" or parts else 0
        if total != due:
            yield Breach("I2", line[0], f"{due} pieces should be on the books, and {total} are")
        if left != gone[line]:
            yield Breach("I2", line[0], f"{gone[line]} pieces left, the books say {left}")
    asked = {
        (row.body.get("orderid"), row.body.get("sku"))
        for row in books.commands.values()
        if row.name in _TAKING
    }
    for line in books.lines.keys() - asked:
        yield Breach("I2", line[0], "nobody asked for this line")


def _events(books: Books, dead_events: int) -> Iterator[Breach]:
    """Each event reached each subscriber once and had its effect."""
    told = {str(row.id): row for row in books.events}
    if books.unsent:
        yield Breach("I3", "outbox", f"{books.unsent} rows were never sent")
    for name, rows in books.received.items():
        ids = {str(row.event_id) for row in rows}
        # Of an event that a subscriber ignores it keeps the sequence alone.
        for event_id, event in told.items():
            if event.sequence >= books.progress[name].get(event.sku, 0):
                yield Breach("I3", event_id, f"{event.name} never reached the {name}")
        for unknown in ids - told.keys():
            yield Breach("I3", unknown, f"the {name} knows an event that nobody committed")
        if books.held[name]:
            yield Breach("I4", name, f"{books.held[name]} events still wait for an earlier one")
        count = sum(queue.startswith(name) for queue, _, _ in books.dead)
        if count != dead_events:
            yield Breach("I3", f"{name}.events.dead", f"{count} dead letters, not {dead_events}")
    picks, mails, lines = replayed(row.body for row in books.events)
    for key in picks.keys() | books.picks.keys():
        row = books.picks.get(key)
        is_there = row and (row.orderid, row.qty, row.batchref, row.closed_sequence)
        if is_there != picks.get(key):
            yield Breach("I3", f"pick {key}", f"is {is_there}, not {picks.get(key)}")
    for event_id in mails.keys() | books.mails.keys():
        if mails.get(event_id) != books.mails.get(event_id):
            what = f"mailed to {books.mails.get(event_id)}, not to {mails.get(event_id)}"
            yield Breach("I3", event_id, what)
    promised = {
        (*line, part.part): (part.batchref, held)
        for line, parts in books.lines.items()
        for part in parts
        if part.batchref is not None and (held := part.qty - _gone(part))
    }
    for line in lines.keys() | promised.keys():
        if lines.get(line) != promised.get(line):
            what = f"told of {lines.get(line)}, on the books with {promised.get(line)}"
            yield Breach("I4", line[0], what)


def replayed(
    events: Iterable[Mapping[str, Any]],
) -> tuple[dict[tuple[str, int], Any], dict[str, str], dict[Part, tuple[str, int]]]:
    """The picks, the mails and what each part holds, as it follows from the events in order."""
    picks: dict[tuple[str, int], Any] = {}
    open_picks: dict[Part, tuple[str, int]] = {}
    moving: dict[Part, str] = {}
    mails: dict[str, str] = {}
    mailed: dict[str, tuple[int, Part]] = {}
    lines: dict[Part, tuple[str, int]] = {}
    for event in events:
        kind, data, sequence = event["type"].split(".")[1], event["data"], event["sequence"]
        line = (data.get("orderid"), data["sku"], data.get("part", 0))
        # Its own caller wanted another quantity: nobody is mailed about what that moves.
        is_resized = event["causationtype"] == "allocation.change_line_quantity"
        if kind == "reserved":
            lines[line] = (data["batchref"], data["qty"])
        elif kind == "reservation_released":
            lines.pop(line, None)
        elif kind == "promise_changed":
            # The mail of a move that was told just before says it all.
            if mailed.get(data["sku"]) != (sequence - 1, line):
                mails[event["id"]] = "orders"
        elif kind == "allocated":
            picks[data["sku"], sequence] = (data["orderid"], data["qty"], data["batchref"], None)
            open_picks[line] = (data["sku"], sequence)
            lines[line] = (data["batchref"], data["qty"])
            left = moving.pop(line, None)
            if left not in (None, data["batchref"]) and not is_resized:
                mails[event["id"]] = "orders"
                mailed[data["sku"]] = (sequence, line)
        elif kind == "deallocated":
            moving.pop(line, None)
            lines.pop(line, None)
            if (opened := open_picks.pop(line, None)) is not None:
                picks[opened] = (*picks[opened][:3], sequence)
            is_cancelled = event["causationtype"] in _CANCELLING
            if data["batchref"] and not is_cancelled and not is_resized:
                moving[line] = data["batchref"]
        elif kind == "dispatched":
            # A pick of which nothing is left to fetch is closed by no event.
            if data.get("left"):
                lines[line] = (data["batchref"], data["left"])
            else:
                lines.pop(line, None)
                open_picks.pop(line, None)
        elif _concerns_stock_team(kind, data):
            mails[event["id"]] = "stock"
    return picks, mails, lines


def _concerns_stock_team(kind: str, data: Mapping[str, Any]) -> bool:
    if kind == "batch_expired":
        return bool(data["qty"])
    if kind == "returned":
        return not data["usable"]
    return kind in ("out_of_stock", "batch_overdue", "batch_blocked")


def _by_line(rows: Iterable[Any]) -> dict[Line, list[Any]]:
    lines: dict[Line, list[Any]] = {}
    for row in rows:
        lines.setdefault((row.orderid, row.sku), []).append(row)
    return lines


def _gone(part: Any) -> int:
    """Pieces of a part that have left."""
    return part.qty if part.dispatched else part.dispatched_qty


def _order(books: Books) -> Iterator[Breach]:
    numbers = Counter[str]()
    for row in books.events:
        numbers[row.sku] += 1
        if row.sequence != numbers[row.sku]:
            yield Breach("I4", row.sku, f"event {row.sequence} where {numbers[row.sku]} is due")
            numbers[row.sku] = row.sequence


def _accounts(books: Books, load: Load, failed: set[str]) -> Iterator[Breach]:
    """accepted = done + pending + dead; when things are quiet nothing is pending."""
    dead = Counter(
        str(headers.get("id")) for queue, headers, _ in books.dead if queue == "allocation.dead"
    )
    for key, sent in load.confirmed().items():
        row = books.commands.get(str(key))
        status = row.status if row else "unknown"
        if str(key) in failed:
            if status != "failed" or dead[str(key)] != 1:
                what = f"is {status} with {dead[str(key)]} dead letters, not failed with one"
                yield Breach("I5", str(key), what)
        elif status == "unknown" and not dead[str(key)]:
            yield Breach("I5", str(key), f"{sent.name} was accepted by {sent.way}, and is lost")
        elif status not in ("succeeded", "rejected"):
            yield Breach("I5", str(key), f"{sent.name} is {status}, dead letters {dead[str(key)]}")
        elif row and status == "rejected" and sent.name in MUST_SUCCEED:
            yield Breach("I2", str(key), f"{sent.name} was refused: {row.outcome}")
        elif dead[str(key)]:
            yield Breach("I5", str(key), f"{sent.name} is {status} and a dead letter as well")
    for command_id, row in books.commands.items():
        if row.status == "pending":
            yield Breach("I5", command_id, f"{row.name} is pending, and nothing moves any more")


def _proofs(books: Books, failed: set[str]) -> Iterator[Breach]:
    for proof in books.proofs:
        if not proof.holds and not (failed and proof.promise == "no command failed"):
            yield Breach("check", proof.broken[0], f"broken: {proof.promise}")


def _rows(engine: Engine, statement: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(statement)).all())
