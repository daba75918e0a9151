"""What callers may ask, each an imperative; the shapes are held by the contract's JSON Schema."""

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True, slots=True)
class CreateBatch:
    """Put `qty` pieces of `sku` on the books; no `eta` means that they are on the shelf."""

    batchref: str
    sku: str
    qty: int
    eta: date | None = None
    best_before: date | None = None


@dataclass(frozen=True, slots=True)
class Allocate:
    """Promise stock to one order line.

    `customer` is opaque: it travels with the line to whoever listens. `split`: several batches may
    serve it.
    """

    orderid: str
    sku: str
    qty: int
    customer: str | None = None
    split: bool = False


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold stock for one order line, as `Allocate` does, but for `ttl` seconds.

    `customer` is opaque: it travels with the line to whoever listens.
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
class AllocateOrder:
    """Promise stock to every line of an order, or hold it for `ttl` seconds.

    Each line for itself; or, `all_or_nothing`, only if all of them can be served at once.
    """

    orderid: str
    lines: tuple[Wanted, ...]
    all_or_nothing: bool = False
    ttl: int | None = None
    customer: str | None = None


@dataclass(frozen=True, slots=True)
class Confirm:
    """Make every held line of the order an allocation.

    `all_or_nothing`: only if all of them hold stock.
    """

    orderid: str
    all_or_nothing: bool = False


@dataclass(frozen=True, slots=True)
class Extend:
    """Hold the order's held lines for `ttl` seconds from now on, if that is longer; once a line."""

    orderid: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Release:
    """Give up every held line of the order."""

    orderid: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Give up the lines of the order that are held until `expires_at`: its time has come."""

    orderid: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Take an allocated line's goods off the books: the warehouse has shipped them.

    `batchref`: the batch that they came from, if the sender knows it.
    """

    orderid: str
    sku: str
    batchref: str | None = None


@dataclass(frozen=True, slots=True)
class Deallocate:
    """Give up one order line, allocated or waiting."""

    orderid: str
    sku: str


@dataclass(frozen=True, slots=True)
class ChangeBatchQuantity:
    """Set a batch's purchased quantity: stock was counted, damaged or shipped short."""

    batchref: str
    qty: int


@dataclass(frozen=True, slots=True)
class ChangeBatchEta:
    """Set when a batch arrives: it is late, or early; no `eta`: it is on the shelf now."""

    batchref: str
    eta: date | None = None


@dataclass(frozen=True, slots=True)
class WriteOff:
    """Take `qty` pieces off a batch's books: they are damaged, lost or stolen."""

    batchref: str
    qty: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChooseStrategy:
    """Have a product's batches serve in another order from now on."""

    sku: str
    strategy: str


@dataclass(frozen=True, slots=True)
class AllocateWaiting:
    """Serve the lines of `sku` that wait, as far as stock fits: the follow-up of freed stock."""

    sku: str


@dataclass(frozen=True, slots=True)
class ReviewPromises:
    """Go on telling the lines of a batch that it comes on another day: the follow-up of many."""

    batchref: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """What came under the command name `name` and breaks its contract: `field` has `problem`.

    `meant` is the command, if it breaks only the rule for new ids; it is carried out if it was
    accepted before that rule existed.
    """

    name: str
    field: str
    problem: str
    body: str
    meant: "Command | None" = None


FollowUp = AllocateWaiting | ReviewPromises | Expire
"""What a decision may leave to be done."""

Command = (
    CreateBatch
    | Allocate
    | AllocateOrder
    | Reserve
    | Confirm
    | Extend
    | Release
    | Dispatch
    | Deallocate
    | ChangeBatchQuantity
    | ChangeBatchEta
    | WriteOff
    | ChooseStrategy
    | FollowUp
    | Malformed
)


def meant(command: Command) -> Command:
    """The command, also of a malformed one that breaks only the rule for new ids."""
    return command.meant or command if isinstance(command, Malformed) else command
