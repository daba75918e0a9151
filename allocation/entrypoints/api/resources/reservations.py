"""Reservations: hold stock for a while, confirm it, hold it for longer, release it."""

from allocation.entrypoints.api.description.schemas import (
    ORDERID,
    Answer,
    count,
    field,
    one_of,
    record,
)
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.resources.lines import ALLOCATED, IN_PARTS, UNTIL, WAITING, line

_ORDER = {
    "orderid": ORDERID,
    "lines": count("Lines that hold all their stock now."),
    "waiting": count("Lines of which pieces still wait for stock."),
}

resource = Resource("reservations")

resource.command(
    "POST",
    "/v1/reservations",
    "allocation.reserve",
    "Hold stock for an order line, for a while",
    Answer(
        "WaitingReservation",
        line(WAITING, IN_PARTS),
        "Nothing can serve the line yet: it waits",
    ),
    Answer(
        "ReservedLine",
        line(ALLOCATED | {"status": one_of("reserved", "allocated", "dispatched")}, IN_PARTS),
        "Stock is held for the line until then",
        status=201,
    ),
    refusals=("unknown sku", "quantity differs"),
)
resource.command(
    "POST",
    "/v1/reservations/<orderid>/confirm",
    "allocation.confirm",
    "Make what is held for an order its own",
    Answer(
        "ConfirmedOrder",
        record(
            **_ORDER,
            status=one_of("confirmed", "waiting", description="waiting: a line of it waits."),
            optional={"all_or_nothing": field("all_or_nothing", "allocation.confirm")},
        ),
        "No line of it is held any more: each is allocated, or waits",
    ),
    refusals=("no reservation", "not all held"),
)
resource.command(
    "POST",
    "/v1/reservations/<orderid>/extend",
    "allocation.extend",
    "Hold it for longer, once",
    Answer(
        "ExtendedOrder",
        record(
            **_ORDER,
            status=one_of("extended", "unchanged", description="unchanged: it is held longer."),
            expires_at=UNTIL | {"description": "When the first of its holds ends."},
        ),
        "None of its holds ends before then",
    ),
    refusals=("no reservation", "extended already"),
)
resource.command(
    "DELETE",
    "/v1/reservations/<orderid>",
    "allocation.release",
    "Give up what is held for an order",
    Answer(
        "ReleasedOrder",
        record(
            orderid=ORDERID,
            lines=count("Lines that were given up, including lines that waited."),
            status=one_of("released"),
        ),
        "Its held lines are given up",
    ),
    refusals=("no reservation",),
)
