"""All products: page by page, those that lines wait for first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from sqlalchemy import ColumnElement, Connection, Select, case, exists, func, select

from allocation.adapters.sql.tables import allocations, batches, products, waits
from allocation.views.stock import free, is_good, is_overdue


@dataclass(frozen=True, slots=True)
class Listed:
    """A product with its quantities, in pieces.

    `on_hand` is what lies on the shelf, `promised` and `available` are parts of all its batches.
    `unusable` pieces are blocked or expired, and count for none of these but `promised`.
    `next_arrival` is a day from today on; `overdue` counts the batches whose day is past.
    """

    sku: str
    on_hand: int = 0
    promised: int = 0
    available: int = 0
    waiting_lines: int = 0
    waiting: int = 0
    next_arrival: date | None = None
    overdue: int = 0
    unusable: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list: behind this sku, among those in trouble or behind them."""

    in_trouble: bool
    sku: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Over all products: how many, for how many lines wait, how many lines and pieces."""

    products: int
    in_trouble: int
    waiting_lines: int
    waiting: int


START = Place(True, "")


def page(
    connection: Connection,
    today: date,
    *,
    after: Place = START,
    containing: str = "",
    only_trouble: bool = False,
    limit: int = 50,
) -> list[Listed]:
    """Up to `limit` products after that place whose sku has `containing` in it, by sku.

    Those that lines wait for come first. Costs grow with `limit` and the batches of what is listed;
    where `containing` is rare, with the products.
    """
    skus: list[str] = []
    if after.in_trouble:
        sku = allocations.c.sku  # by the index of the lines that wait
        statement = select(sku).where(waits, sku > after.sku).group_by(sku)
        skus += _first(connection, statement, sku, containing, limit)
    if len(skus) < limit and not only_trouble:
        sku = products.c.sku
        waited_for = exists().where(waits, allocations.c.sku == sku)
        behind = "" if after.in_trouble else after.sku
        statement = select(sku).where(~waited_for, sku > behind)
        skus += _first(connection, statement, sku, containing, limit - len(skus))
    return listed(connection, skus, today)


def place_of(product: Listed) -> Place:
    """The place behind which the next page begins when this is a page's last product."""
    return Place(product.waiting_lines > 0, product.sku)


def everything(
    connection: Connection, today: date, containing: str = "", *, only_trouble: bool = False
) -> Iterator[Listed]:
    """All products as `page` orders them, a thousand from the database at a time."""
    after = START
    asked = partial(page, connection, today, containing=containing, only_trouble=only_trouble)
    while found := asked(after=after, limit=1000):
        yield from found
        after = place_of(found[-1])


def totals(connection: Connection) -> Totals:
    """What there is of all products; costs grow with them and with the waiting lines."""
    known = connection.scalar(select(func.count()).select_from(products)) or 0
    queue = connection.execute(
        select(
            func.count(allocations.c.sku.distinct()),
            func.count(),
            func.coalesce(func.sum(allocations.c.qty), 0),
        ).where(waits)
    ).one()
    return Totals(known, queue[0], queue[1], int(queue[2]))


def listed(connection: Connection, skus: Sequence[str], today: date) -> list[Listed]:
    """The products with their quantities, in the order of `skus`."""
    eta, purchased = batches.c.eta, batches.c.purchased
    has_overdue = is_overdue(today) & (purchased > 0)
    good = is_good(today)
    stock = (
        select(
            batches.c.sku,
            func.sum(case((eta.is_(None) & good, purchased), else_=0)).label("on_hand"),
            func.sum(batches.c.allocated).label("promised"),
            func.sum(case((good, free), else_=0)).label("available"),
            func.min(case(((eta >= today) & good, eta))).label("next_arrival"),
            func.sum(case((has_overdue, 1), else_=0)).label("overdue"),
            func.sum(case((~good, purchased), else_=0)).label("unusable"),
        )
        .where(batches.c.sku.in_(skus))
        .group_by(batches.c.sku)
    )
    queue = (
        select(
            allocations.c.sku,
            func.count().label("waiting_lines"),
            func.sum(allocations.c.qty).label("waiting"),
        )
        .where(waits, allocations.c.sku.in_(skus))
        .group_by(allocations.c.sku)
    )
    quantities: dict[str, dict[str, object]] = {sku: {"sku": sku} for sku in skus}
    for statement in (stock, queue):
        for row in connection.execute(statement):
            quantities[row.sku] |= {
                name: value if name in ("sku", "next_arrival") else int(value)
                for name, value in row._mapping.items()
            }
    return [Listed(**quantities[sku]) for sku in skus]  # type: ignore[arg-type]


def _first(
    connection: Connection,
    statement: Select[tuple[str]],
    sku: ColumnElement[str],
    containing: str,
    limit: int,
) -> list[str]:
    if containing:
        statement = statement.where(sku.icontains(containing, autoescape=True))
    return list(connection.scalars(statement.order_by(sku).limit(limit)))
