"""Products: the list, those in trouble first, and one of them with batches, queue and moves."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from typing import Any

from flask import Blueprint, Response, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound

from allocation.contract.identifiers import trimmed
from allocation.entrypoints.api.http.parsing import number
from allocation.entrypoints.api.pages import flash_messages
from allocation.entrypoints.api.pages.csv_responses import csv_response
from allocation.entrypoints.api.state import current, snapshot, today
from allocation.views import Json, catalogue, lines, moves, stock
from allocation.views.catalogue import Listed, Place

ROWS = 50
"""Of a list on one page."""
MOVES = 20
CHUNK = 1000
"""Rows of a CSV response that are read at once."""

_BATCH = ("batchref", "qty", "allocated", "available", "eta", "best_before")
_MOVE = ("sequence", "time", "event", "orderid", "qty", "batchref", "eta", "cause")


def register(blueprint: Blueprint) -> None:
    blueprint.get("/")(products)
    blueprint.get("/products.csv")(products_csv)
    blueprint.get("/products/<sku>")(product)
    blueprint.get("/products/<sku>/batches.csv")(batches_csv)
    blueprint.get("/products/<sku>/waiting.csv")(waiting_csv)
    blueprint.get("/products/<sku>/moves.csv")(moves_csv)


def products() -> str:
    containing, only_trouble = _filter()
    trouble, _, behind = request.args.get("after", "1:").partition(":")
    with snapshot() as connection:
        found = catalogue.page(
            connection,
            today(connection),
            after=Place(trouble != "0", behind),
            containing=containing,
            only_trouble=only_trouble,
            limit=ROWS + 1,
        )
        totals = catalogue.totals(connection)
    shown = found[:ROWS]
    return render_template(
        "pages/products.html",
        products=shown,
        totals=totals,
        containing=containing,
        only_trouble=only_trouble,
        more=_url("pages.products", after=_after(shown[-1])) if len(found) > ROWS else None,
        first=_url("pages.products") if "after" in request.args else None,
        csv=_url("pages.products_csv"),
    )


def products_csv() -> Response:
    containing, only_trouble = _filter()
    api = current()

    def rows(connection: Connection) -> Iterator[Json]:
        found = catalogue.everything(
            connection, api.today(connection), containing, only_trouble=only_trouble
        )
        return (asdict(each) for each in found)

    return csv_response("products", [field.name for field in fields(Listed)], rows)


def product(sku: str) -> str:
    asked = request.args
    batches_after = stock.cursor(asked.get("batches_after", ""))
    waiting_after = _place(asked.get("waiting_after"))
    moves_before = number(asked.get("moves_before"))
    with snapshot() as connection:
        flash_message = flash_messages.of_request(connection)
        known = stock.product(connection, sku, today(connection), after=batches_after, limit=ROWS)
        if known is None and flash_message is not None:
            return render_template("pages/product_to_be.html", sku=sku, flash_message=flash_message)
        if known is None:
            raise NotFound(f"There is no product with the sku {sku}.")
        [listed] = catalogue.listed(connection, [sku], today(connection))
        queue = lines.waiting(connection, sku, after=waiting_after, limit=ROWS + 1)
        latest = moves.of_product(connection, sku, before=moves_before, limit=MOVES + 1)
    return render_template(
        "pages/product.html",
        sku=sku,
        strategy=known["strategy"],
        waiting_rule=known["waiting_rule"],
        improve=known["improve"],
        listed=listed,
        batches=known["batches"],
        largest=max((batch["qty"] for batch in known["batches"]), default=0),
        queue=queue[:ROWS],
        moves=latest[:MOVES],
        flash_message=flash_message,
        more_batches=known["next"] and _url("pages.product", sku=sku, batches_after=known["next"]),
        more_waiting=_next(queue, ROWS, waiting_after="place"),
        more_moves=_next(latest, MOVES, moves_before="sequence"),
    )


def batches_csv(sku: str) -> Response:
    api = current()

    def rows(connection: Connection) -> Iterator[Json]:
        day = api.today(connection)
        page = stock.product(connection, sku, day, limit=CHUNK)
        while page:
            yield from page["batches"]
            after = stock.cursor(page["next"] or "")
            page = stock.product(connection, sku, day, after=after, limit=CHUNK) if after else None

    return csv_response(f"batches of {sku}", _BATCH, rows)


def waiting_csv(sku: str) -> Response:
    def rows(connection: Connection) -> Iterator[Json]:
        return _every(
            lambda after: lines.waiting(connection, sku, after=after, limit=CHUNK), "place"
        )

    return csv_response(f"waiting for {sku}", ("orderid", "part", "qty", "customer"), rows)


def moves_csv(sku: str) -> Response:
    def rows(connection: Connection) -> Iterator[Json]:
        found = _every(
            lambda before: moves.of_product(connection, sku, before=before, limit=CHUNK), "sequence"
        )
        for move in found:
            yield dict.fromkeys(_MOVE) | move | {"cause": move["cause"]["command"]}

    return csv_response(f"moves of {sku}", _MOVE, rows)


def _every(page: Callable[[Any], list[Json]], key: str) -> Iterator[Json]:
    """All rows of a list that is read page by page, each behind the last row's `key`."""
    last = None
    while found := page(last):
        yield from found
        last = found[-1][key]


def _filter() -> tuple[str, bool]:
    return trimmed(request.args.get("q", "")), "trouble" in request.args


def _after(last: Listed) -> str:
    place = catalogue.place_of(last)
    return f"{int(place.in_trouble)}:{place.sku}"


def _place(text: str | None) -> lines.Place | None:
    """A place in the queue as a link has it; None, the beginning, for an invalid one."""
    *numbers, orderid = [*(text or "").split(":", 3), "", "", ""][:4]
    priority, age, part = map(number, numbers)
    if priority is None or age is None or part is None:
        return None
    return priority, age, orderid, part


def _next(found: list[Json], shown: int, **key: str) -> str | None:
    """The page that goes on behind the last one shown, if there are more."""
    if len(found) <= shown:
        return None
    [(parameter, field)] = key.items()
    value: Any = found[shown - 1][field]
    if field == "place":
        priority, age, orderid, part = value
        value = f"{priority}:{age}:{part}:{orderid}"
    return _url("pages.product", **(request.view_args or {}), **{parameter: value})


def _url(endpoint: str, **changes: Any) -> str:
    """This page's address with other parameters; the filter stays, the place does not."""
    kept = {name: request.args[name] for name in ("q", "trouble") if request.args.get(name)}
    return url_for(endpoint, **(kept | changes))
