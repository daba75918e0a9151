"""Requests of callers, each an imperative.

The contract's JSON Schemas define their fields, and refuse invalid values: a quantity below one.
"""

import dataclasses
from dataclasses import dataclass
from datetime import date, datetime


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
    def due_at(self) -> datetime | None:
        """When it is to be accepted; None: at once."""
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

    `customer` is opaque: it travels with the line to the subscribers. `split`: several batches may
    serve it.
    """

    orderid: str
    sku: str
    qty: int
    customer: str | None = None
    split: bool = False


@dataclass(frozen=True, slots=True)
class Reserve(Command):
    """Hold stock for one order line, as `Allocate` does, but for `ttl` seconds.

    `customer` is opaque: it travels with the line to the subscribers.
    """

    orderid: str
    sku: str
    qty: int
    ttl: int
    customer: str | None = None
    split: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """One line of an order: `qty` pieces of `sku`; `split`: several batches may serve it."""

    sku: str
    qty: int
    split: bool = False


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

    `batchref`: the batch that they came from, if the sender knows it.
    """

    orderid: str
    sku: str
    batchref: str | None = None


@dataclass(frozen=True, slots=True)
class Deallocate(Command):
    """Give up one order line, allocated or waiting."""

    orderid: str
    sku: str


@dataclass(frozen=True, slots=True)
class ChangeBatchQuantity(Command):
    """Set a batch's purchased quantity: stock was counted, damaged or shipped short."""

    batchref: str
    qty: int


@dataclass(frozen=True, slots=True)
class ChangeBatchEta(Command):
    """Change a batch's ETA: it is late, or early; no `eta`: it is on the shelf now."""

    batchref: str
    eta: date | None = None


@dataclass(frozen=True, slots=True)
class WriteOff(Command):
    """Take `qty` pieces off a batch's books: they are damaged, lost or stolen."""

    batchref: str
    qty: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChooseStrategy(Command):
    """Choose the order in which a product's batches serve its lines."""

    sku: str
    strategy: str


@dataclass(frozen=True, slots=True)
class AllocateWaiting(FollowUp):
    """Serve the lines of `sku` that wait, as far as stock fits: the follow-up of freed stock."""

    sku: str


@dataclass(frozen=True, slots=True)
class ReviewPromises(FollowUp):
    """Go on with the lines that a batch serves on another day: the follow-up of a new ETA."""

    batchref: str


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
