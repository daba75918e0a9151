"""Products: what is available of a sku, what waits for it, and the order in which it serves."""

from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for
from werkzeug.exceptions import NotFound

from allocation.contract.codec import Violation
from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.problems import invalid
from allocation.entrypoints.api.http.reading import snapshot
from allocation.views import stock
from allocation.views.stock import MOST


def blueprint() -> Blueprint:
    made = Blueprint("products", __name__)
    made.get("/v1/products/<sku>")(show)
    made.put("/v1/products/<sku>/strategy")(choose_strategy)
    return made


def choose_strategy(sku: str) -> Response:
    return intake.answer(parsing.command("allocation.choose_strategy", sku=sku))


def show(sku: str) -> Response:
    page = _page()
    with snapshot() as connection:
        product = stock.product(connection, sku, **page)
    if product is None:
        raise NotFound("No batch of this sku was ever put on the books.")
    if product["next"]:
        kept: dict[str, Any] = {
            name: request.args[name] for name in ("limit", "open") if name in request.args
        }
        product["next"] = url_for("products.show", sku=sku, after=product["next"], **kept)
    return jsonify(product)


def _page() -> dict[str, Any]:
    """Which of the batches the request asks for; raises Problem, naming each wrong parameter."""
    limit = request.args.get("limit", str(stock.LIMIT))
    only_open = request.args.get("open", "false")
    after = request.args.get("after")
    cursor = stock.cursor(after) if after is not None else None
    wrong = []
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= MOST):
        wrong.append(Violation("limit", f"must be a whole number from 1 to {MOST}"))
    if only_open not in ("true", "false"):
        wrong.append(Violation("open", "must be true or false"))
    if after is not None and cursor is None:
        wrong.append(Violation("after", "must come from the `next` of an answer"))
    if wrong:
        raise invalid(wrong)
    return {"limit": int(limit), "only_open": only_open == "true", "after": cursor}
