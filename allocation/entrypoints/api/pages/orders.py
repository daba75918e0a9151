"""Orders: find one by its id, see every line, its promise and its history."""

from flask import Blueprint, Response, redirect, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from allocation.contract.identifiers import trimmed
from allocation.entrypoints.api.pages import flash_messages
from allocation.entrypoints.api.pages.csv_responses import csv_response
from allocation.entrypoints.api.state import snapshot
from allocation.views import Json, lines, moves

MOVES = 200
"""Moves of an order that are shown at most."""

_LINE = ("sku", "qty", "status", "batchref", "eta", "expires_at")


def register(blueprint: Blueprint) -> None:
    blueprint.get("/orders")(orders)
    blueprint.get("/orders/<orderid>")(order)
    blueprint.get("/orders/<orderid>/lines.csv")(lines_csv)


def orders() -> str | AnyResponse:
    """The search; an order that there is leads to its page at once."""
    typed = request.args.get("orderid", "")
    orderid = trimmed(typed)
    if not orderid:
        return render_template("pages/orders.html", orderid="")
    with snapshot() as connection:
        for each in dict.fromkeys((orderid, typed)):  # older releases did not trim ids
            if lines.order(connection, each) or moves.of_order(connection, each, limit=1):
                return redirect(url_for("pages.order", orderid=each), 303)
    return render_template("pages/orders.html", orderid=orderid)


def order(orderid: str) -> str:
    with snapshot() as connection:
        flash_message = flash_messages.of_request(connection)
        known = lines.order(connection, orderid)
        customers = lines.customers(connection, orderid)
        latest = moves.of_order(connection, orderid, limit=MOVES)
    if not known and not latest and not flash_message:
        raise NotFound(f"The order {orderid} has no lines and no stored history.")
    found = lines.whole(known["lines"]) if known else []
    return render_template(
        "pages/order.html",
        orderid=orderid,
        lines=found,
        flash_message=flash_message,
        cancellable=any(line["dispatched_qty"] < line["qty"] for line in found),
        customers=customers,
        moves=latest,
        most=MOVES,
    )


def lines_csv(orderid: str) -> Response:
    def rows(connection: Connection) -> list[Json]:
        known = lines.order(connection, orderid)
        return known["lines"] if known else []

    return csv_response(f"lines of {orderid}", _LINE, rows)
