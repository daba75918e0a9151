"""Requests of callers, each an imperative.

The contract's JSON Schemas define their fields, and refuse invalid values: a quantity below one.
"""

import dataclasses
from dataclasses import dataclass
from datetime import date, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Command:
    """A request. Its fields say which products it locks, and which lines it loads with them.

    By name: `sku` and `lines` name products, `batchref` that of a batch, `orderid` those of an
    order's lines, if the command names no product.
    """

    @property
    def skus(self) -> tuple[str, ...]:
        """The products that the command names."""
        if sku := self._field("sku"):
            return (sku,)
        lines: tuple[Wanted, ...] = getattr(self, "lines", ())
        return tuple(line.sku for line in lines)

    @property
    def order(self) -> str | None:
        """The order whose lines the command is about."""
        return self._field("orderid")

    @property
    def batch(self) -> str | None:
        """The batch whose product the command is about; None if it names a product."""
        return None if self.skus else self._field("batchref")

    @property
    def meant(self) -> "Command":
        """What is executed if the command was accepted earlier, maybe under other rules."""
        return self

    def _field(self, name: str) -> str | None:
        return getattr(self, name, None)


@dataclass(frozen=True, slots=True)
class FollowUp(Command):
    """A command that a decision leaves to be executed; `Product.pull_follow_ups` returns them."""

    @property
    def due_at(self) -> datetime | date | None:
        """When the command is accepted; a date means the beginning of that day, None at once."""
        return None


@dataclass(frozen=True, slots=True)
class CreateBatch(Command):
    """Put `qty` pieces of `sku` on the books; no `eta` means that they are on the shelf."""

    batchref: str
    sku: str
    qty: int
    eta: date | None = None
    best_before: date | None = None


@dataclass(frozen=True, slots=True)
class Allocate(Command):
    """Allocate stock to one order line.

    `customer` is opaque: events carry it to the subscribers. `books.OrderLine` describes the other
    fields.
    """

    orderid: str
    sku: str
    qty: int
    customer: str | None = None
    split: bool = False
    priority: int = 0
    not_before: date | None = None
    fresh_days: int = 0


@dataclass(frozen=True, slots=True)
class Reserve(Command):
    """Hold stock for one order line, as `Allocate` does, but for `ttl` seconds."""

    orderid: str
    sku: str
    qty: int
    ttl: int
    customer: str | None = None
    split: bool = False
    priority: int = 0
    not_before: date | None = None
    fresh_days: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """One line of an order; `books.OrderLine` describes the fields."""

    sku: str
    qty: int
    split: bool = False
    priority: int = 0
    not_before: date | None = None
    fresh_days: int = 0


@dataclass(frozen=True, slots=True)
class AllocateOrder(Command):
    """Promise stock to every line of an order, or hold it for `ttl` seconds.

    Each line for itself; or, `all_or_nothing`, only if all of them can be served at once.
    """

    orderid: str
    lines: tuple[Wanted, ...]
    all_or_nothing: bool = False
    ttl: int | None = None
    customer: str | None = None


@dataclass(frozen=True, slots=True)
class Confirm(Command):
    """Turn the order's reservations into allocations.

    `all_or_nothing`: only if all of them hold stock.
    """

    orderid: str
    all_or_nothing: bool = False


@dataclass(frozen=True, slots=True)
class Extend(Command):
    """Hold the order's held lines for `ttl` seconds from now on, if that is longer; once a line."""

    orderid: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Release(Command):
    """Release all reservations of the order."""

    orderid: str


@dataclass(frozen=True, slots=True)
class Expire(FollowUp):
    """Give up the lines of the order that are held until `expires_at`: its time has come."""

    orderid: str
    expires_at: datetime

    @property
    def due_at(self) -> datetime:
        return self.expires_at


@dataclass(frozen=True, slots=True)
class Dispatch(Command):
    """Record that the warehouse has shipped an allocated line: its pieces leave the batch.

    `batchref`: the batch that the goods came from; None: every batch of the line that is there.
    `qty`: the number of pieces; None: all. `reported`: the goods have left already, so the command
    fails if the books do not have them, and is not refused.
    """

    orderid: str
    sku: str
    batchref: str | None = None
    qty: int | None = None
    reported: bool = False


@dataclass(frozen=True, slots=True)
class ReturnGoods(Command):
    """Take dispatched pieces of a line back into `batchref`; without it, a new one on the shelf.

    Pieces that are not `usable` are recorded, and go into no batch.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str
    usable: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ChangeLineQuantity(Command):
    """Have the order line want `qty` pieces; it keeps its age."""

    orderid: str
    sku: str
    qty: int
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class ChangePriority(Command):
    """Set the priority of the order's lines, or of its line of one sku."""

    orderid: str
    priority: int
    sku: str | None = None
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class CancelOrder(Command):
    """Give up every line of the order, except goods that have left."""

    orderid: str


@dataclass(frozen=True, slots=True)
class Deallocate(Command):
    """Give up one order line, allocated or waiting."""

    orderid: str
    sku: str
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class ChangeBatchQuantity(Command):
    """Set a batch's purchased quantity: stock was counted, damaged or shipped short.

    `expected_version`: that of the batch which the sender has seen; if it is another one by now,
    the command is refused.
    """

    batchref: str
    qty: int
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class Receive(Command):
    """Add `qty` pieces to a batch."""

    batchref: str
    qty: int


@dataclass(frozen=True, slots=True)
class ChangeBatchEta(Command):
    """Change a batch's ETA: it is late, or early; no `eta`: it is on the shelf now."""

    batchref: str
    eta: date | None = None
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class ChangeBestBefore(Command):
    """Correct the last day on which a batch is good; no `best_before`: it keeps for ever."""

    batchref: str
    best_before: date | None = None
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class BlockBatch(Command):
    """Have a batch serve no line, such as for a recall; the lines that it serves move, or wait."""

    batchref: str
    reason: str
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class UnblockBatch(Command):
    """Have a blocked batch serve lines again."""

    batchref: str
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class WriteOff(Command):
    """Take `qty` pieces off a batch's books: they are damaged, lost or stolen."""

    batchref: str
    qty: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChooseStrategy(Command):
    """Have a product's batches serve in another order from now on.

    `waiting`: `fill`, a line that does not fit is skipped; or `in_order`, nothing is served past an
    older or more urgent line that waits. `improve`: promises move to stock that comes earlier.
    """

    sku: str
    strategy: str
    waiting: str = "fill"
    improve: bool = True
    expected_version: str | None = None


@dataclass(frozen=True, slots=True)
class CreateProduct(Command):
    """Make a product known before its first batch, so that its lines wait."""

    sku: str
    strategy: str = "earliest_first"
    waiting: str = "fill"
    improve: bool = True


@dataclass(frozen=True, slots=True)
class AllocateWaiting(FollowUp):
    """Serve the lines of `sku` that wait, then improve promises: the follow-up of freed stock."""

    sku: str


@dataclass(frozen=True, slots=True)
class ReviewPromises(FollowUp):
    """Go on with the lines that a batch serves on another day: the follow-up of a new ETA."""

    batchref: str


@dataclass(frozen=True, slots=True)
class ExpireBatch(FollowUp):
    """Take a batch out, unless it has another `best_before` by now: that day has passed."""

    batchref: str
    best_before: date

    @property
    def due_at(self) -> date:
        return self.best_before + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class MarkOverdue(FollowUp):
    """Publish that a batch is overdue, unless it has another `eta` by now: that day has passed."""

    batchref: str
    eta: date

    @property
    def due_at(self) -> date:
        return self.eta + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Violation:
    """`field` of a body breaks its contract: `problem` says how, without repeating the value.

    `of_new_id`: it breaks only the rule for new ids, which stored ids need not keep.
    """

    field: str
    problem: str
    of_new_id: bool = dataclasses.field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Malformed(Command):
    """An invalid body under the command name `name`, with the first violation of each field.

    `of_old_ids` is the command if the body breaks only the rule for new ids: if it was accepted
    before that rule existed, it keeps its meaning.
    """

    name: str
    violations: tuple[Violation, ...]
    body: str
    of_old_ids: Command | None = None

    @property
    def meant(self) -> Command:
        return self.of_old_ids or self
