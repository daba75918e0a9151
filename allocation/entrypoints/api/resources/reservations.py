"""Reservations: hold stock for a while, confirm it, hold it for longer, release it."""

from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.resources.lines import ALLOCATED, IN_PARTS, UNTIL, WAITING, line

_ORDER = {
    "orderid": s.ORDERID,
    "lines": s.count("Number of lines for which all stock is reserved or allocated now."),
    "waiting": s.count("Number of lines with pieces that still wait for stock."),
}

resource = Resource("reservations")

resource.command(
    "POST",
    "/v1/reservations",
    "allocation.reserve",
    "Reserve stock for an order line",
    s.Answer(
        "WaitingReservation",
        line(WAITING, IN_PARTS),
        "No batch can serve the line yet, so it waits",
    ),
    s.Answer(
        "ReservedLine",
        line(ALLOCATED | {"status": s.one_of("reserved", "allocated", "dispatched")}, IN_PARTS),
        "Stock is reserved for the line until `expires_at`",
        status=201,
    ),
    refusals=("unknown sku", "quantity differs"),
)
resource.command(
    "POST",
    "/v1/reservations/<orderid>/confirm",
    "allocation.confirm",
    "Confirm an order's reservations",
    s.Answer(
        "ConfirmedOrder",
        s.record(
            **_ORDER,
            status=s.one_of(
                "confirmed", "waiting", description="waiting: a line of the order waits for stock."
            ),
            optional={"all_or_nothing": s.field("all_or_nothing", "allocation.confirm")},
        ),
        "The order has no reservation any more: each line is allocated, or waits",
    ),
    refusals=("no reservation", "not all held"),
)
resource.command(
    "POST",
    "/v1/reservations/<orderid>/extend",
    "allocation.extend",
    "Extend an order's reservations, once",
    s.Answer(
        "ExtendedOrder",
        s.record(
            **_ORDER,
            status=s.one_of(
                "extended",
                "unchanged",
                description="unchanged: the reservations already last longer.",
            ),
            expires_at=UNTIL
            | {"description": "The time at which the first of the order's reservations ends."},
        ),
        "No reservation of the order ends before `expires_at`",
    ),
    refusals=("no reservation", "extended already"),
)
resource.command(
    "DELETE",
    "/v1/reservations/<orderid>",
    "allocation.release",
    "Release an order's reservations",
    s.Answer(
        "ReleasedOrder",
        s.record(
            orderid=s.ORDERID,
            lines=s.count("Number of lines that were released, including waiting lines."),
            status=s.one_of("released"),
        ),
        "The order's reservations were released",
    ),
    refusals=("no reservation",),
)
