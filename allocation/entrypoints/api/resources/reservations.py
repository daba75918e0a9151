"""Reservations: hold stock for a while, confirm it, hold it for longer, release it."""

from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.resources.lines import ALLOCATED, IN_PARTS, UNTIL, WAITING, line

_ORDER = {
    "orderid": s.ORDERID,
    "lines": s.count("Lines that hold all their stock now."),
    "waiting": s.count("Lines of which pieces still wait for stock."),
}

resource = Resource("reservations")

resource.command(
    "POST",
    "/v1/reservations",
    "allocation.reserve",
    "Hold stock for an order line, for a while",
    s.Answer(
        "WaitingReservation", line(WAITING, IN_PARTS), "Nothing can serve the line yet: it waits"
    ),
    s.Answer(
        "ReservedLine",
        line(ALLOCATED | {"status": s.one_of("reserved", "allocated", "dispatched")}, IN_PARTS),
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
    s.Answer(
        "ConfirmedOrder",
        s.record(
            **_ORDER,
            status=s.one_of("confirmed", "waiting", description="waiting: a line of it waits."),
            optional={"all_or_nothing": s.field("all_or_nothing", "allocation.confirm")},
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
    s.Answer(
        "ExtendedOrder",
        s.record(
            **_ORDER,
            status=s.one_of("extended", "unchanged", description="unchanged: it is held longer."),
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
    s.Answer(
        "ReleasedOrder",
        s.record(
            orderid=s.ORDERID,
            lines=s.count("Lines that were given up, including lines that waited."),
            status=s.one_of("released"),
        ),
        "Its held lines are given up",
    ),
    refusals=("no reservation",),
)
