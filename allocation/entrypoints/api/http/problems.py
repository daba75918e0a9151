"""Every error as RFC 9457 problem details, from a wrong field to a database that is away."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import structlog
from flask import Flask, Response, json
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from allocation.adapters.sql.database import DISK_FULL, NO_SCHEMA, translated
from allocation.domain.commands import Violation
from allocation.service_layer.unit_of_work import (
    ConcurrentUpdate,
    SchemaMissing,
    StorageUnavailable,
    StorageUnusable,
)

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its HTTP status, and its sentence for people.

    `with_facts` is the sentence for the pages, which has the facts of a refusal.
    """

    status: int
    sentence: str
    with_facts: str = ""


_REFUSALS = {
    "unknown sku": ("There is no product with this sku.", "There is no product {sku}."),
    "unknown batchref": ("There is no batch with this reference.", "There is no batch {batchref}."),
    "unknown order": ("The order has no line.", "Order {orderid} has no line."),
    "unknown order line": (
        "The order has no line of this sku.",
        "Order {orderid} has no line of {sku}.",
    ),
    "batchref taken": (
        "A batch with this reference already exists.",
        "Batch {batchref} already exists; choose another reference.",
    ),
    "dropped": (
        "No worker could decide the command, and an operator dropped it.",
        "No worker could decide this command, and an operator dropped it. Send it again.",
    ),
    "quantity differs": (
        "The order already has a line of this sku with another quantity.",
        "The order already has {known_qty} pieces of this product, not {qty}.",
    ),
    "not all in stock": (
        "One of the lines can't be served at once, so no line was accepted.",
        "{sku} can't be served at once, so no line of order {orderid} was accepted.",
    ),
    "not all held": (
        "A line of the order waits for stock, so no line was confirmed.",
        "{sku} is not reserved for order {orderid}, so no line was confirmed.",
    ),
    "sku twice": (
        "The order names a sku in two of its lines.",
        "Order {orderid} names a product in two of its lines.",
    ),
    "line twice": (
        "An earlier line of the request has the same order and sku.",
        "The request has the line of {sku} for order {orderid} twice.",
    ),
    "reserved": (
        "The line is reserved: confirm the order instead.",
        "{sku} is already reserved for order {orderid}; confirm the order instead.",
    ),
    "no reservation": (
        "The order has no reservation: none was made, or it has ended.",
        "Order {orderid} has no reservation.",
    ),
    "extended already": (
        "A reservation can be extended once.",
        "The reservation of order {orderid} was extended before; it can be extended once.",
    ),
    "not allocated": (
        "The line waits or is reserved, so its goods can't have been shipped.",
        "No {sku} is allocated to order {orderid}, so none can have been shipped.",
    ),
    "another batch": (
        "Another batch serves the line.",
        "Batch {known} serves the line, not {batchref}.",
    ),
    "dispatched": (
        "The goods were shipped, so they can't be cancelled or changed.",
        "The goods were shipped, so they can't be cancelled or changed.",
    ),
    "quantity too large": (
        "There are fewer pieces.",
        "There are {known_qty} pieces, fewer than {qty}.",
    ),
    "product known": (
        "The product is known already, and has another strategy, waiting rule or `improve`.",
        "Product {sku} is known already; it serves by {strategy}, or has another waiting rule.",
    ),
    "not enough stock": (
        "There is not enough free stock for so many pieces, so the line stays as it is.",
        "There is not enough free stock for {qty} pieces; the line stays at {known_qty}.",
    ),
    "expires before arrival": (
        "The batch would arrive after its best-before day.",
        "The batch arrives on {eta}, after its best-before day {best_before}.",
    ),
    "blocked": (
        "The batch is blocked, so its goods can't leave.",
        "Batch {batchref} is blocked, so its goods can't leave.",
    ),
    "not arrived": (
        "The batch has not arrived, so its goods can't leave.",
        "Batch {batchref} has not arrived, so its goods can't leave.",
    ),
    "expired": (
        "The batch has expired, so its goods can't leave.",
        "Batch {batchref} has expired, so its goods can't leave.",
    ),
    "malformed command": (
        "A field of the command breaks the contract.",
        "The field {field} is invalid: it {problem}.",
    ),
}
"""By the reason for which a rule refuses a command: the sentence without, and with the facts."""

KINDS = {reason: Kind(409, *sentences) for reason, sentences in _REFUSALS.items()} | {
    "changed meanwhile": Kind(
        412,
        "The resource has another version than If-Match says: read it again, then decide.",
        "Somebody changed it meanwhile, so nothing was saved.",
    ),
    "malformed precondition": Kind(
        400, "If-Match is one strong entity tag, as ETag gives it, or *."
    ),
    "malformed JSON": Kind(400, "The body is not one JSON text in UTF-8."),
    "invalid input": Kind(
        422, "A field breaks the contract; `errors` has each invalid field and its problem."
    ),
    "malformed idempotency key": Kind(
        400, "An Idempotency-Key is 1 to 255 printable ASCII characters."
    ),
    "idempotency key reused": Kind(
        422, "This Idempotency-Key was used before with another request."
    ),
    "command failed": Kind(
        500, "No worker could decide the command. It is saved and may still be decided."
    ),
    "storage unavailable": Kind(
        503, "The database does not respond. The request may not have been saved; try again."
    ),
    "missing scope": Kind(403, "The API key is valid, but lacks the scope for this request."),
    "too many requests": Kind(429, "The caller exceeded the rate limit. Wait for Retry-After."),
    "overloaded": Kind(503, "The service is overloaded. Nothing was saved; try again later."),
    "not ready": Kind(503, "The service is not ready to do its work."),
}
"""The kinds of problem that have a `type` of their own, by their titles; a refusal is a 409."""

_SENTENCES = {
    404: "There is no resource at this path.",
    405: "This path does not support the method; Allow lists the methods that it supports.",
    413: "The body is larger than 1 MiB.",
}


class Problem(Exception):
    """An answer that says what is wrong: one of KINDS, or an HTTP status that says it all.

    `members` are added to the answer as they are.
    """

    def __init__(
        self,
        what: str | int,
        detail: str | None = None,
        *,
        errors: Iterable[Violation] = (),
        headers: Mapping[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(detail)
        self.kind = what if isinstance(what, str) else None
        known = Kind(what, HTTP_STATUS_CODES[what]) if isinstance(what, int) else kind(what)
        self.status = known.status
        self.detail = detail or known.sentence
        self.errors = [{"field": error.field, "problem": error.problem} for error in errors]
        self.headers = headers or {}
        self.members = members

    def body(self) -> dict[str, Any]:
        """The problem as JSON."""
        body: dict[str, Any] = {
            "type": type_uri(self.kind) if self.kind else "about:blank",
            "title": self.kind or HTTP_STATUS_CODES[self.status],
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
        if self.errors:
            body["errors"] = self.errors
        return body

    def response(self) -> Response:
        text = json.dumps(self.body()) + "\n"
        return Response(text, self.status, self.headers, mimetype=CONTENT_TYPE)


def kind(name: str) -> Kind:
    """The kind of this name; a refusal for a reason that only another release knows is a 409."""
    return KINDS.get(name, Kind(409, name))


def type_uri(kind: str) -> str:
    """The `type` of this kind of problem; the API answers there with its sentence."""
    return "/problems/" + kind.lower().replace(" ", "-")


def invalid(violations: Iterable[Violation]) -> Problem:
    """The problem of a request that breaks the contract."""
    return Problem("invalid input", errors=violations)


def register(app: Flask, answer: Callable[[Problem], Response]) -> None:
    """Answer all that goes wrong in a request of `app` with what `answer` makes of the problem."""
    app.register_error_handler(Problem, answer)
    problem_of: dict[type[Exception], Callable[[Any], Problem]] = {
        HTTPException: _http,
        StorageUnavailable: _unavailable,
        ConcurrentUpdate: _unavailable,
        SQLAlchemyError: _database,
        Exception: _unexpected,
    }
    for error, problem in problem_of.items():
        app.register_error_handler(error, partial(_answered, problem, answer))


def _answered(
    problem: Callable[[Any], Problem], answer: Callable[[Problem], Response], error: Exception
) -> Response:
    return answer(problem(error))


def _http(error: HTTPException) -> Problem:
    said = error.description
    if error.code in _SENTENCES and said == type(error).description:  # Werkzeug's is long-winded
        said = _SENTENCES[error.code]
    headers = {
        name: value
        for name, value in error.get_headers()
        if name not in ("Content-Type", "Content-Length")  # Allow, Retry-After and the like
    }
    return Problem(error.code or 500, said, headers=headers)


def no_schema() -> Problem:
    """The problem of a database that has an earlier schema, or none."""
    return Problem("not ready", NO_SCHEMA, headers={"Retry-After": "5"})


def _unavailable(error: Exception) -> Problem:
    # The first line: the rest is the statement with its values.
    log.warning("the database does not respond", error=str(error).partition("\n")[0])
    if isinstance(error, SchemaMissing):
        return no_schema()
    if isinstance(error, StorageUnusable):
        return Problem("storage unavailable", DISK_FULL, headers={"Retry-After": "5"})
    return Problem("storage unavailable", headers={"Retry-After": "2"})


def _database(error: SQLAlchemyError) -> Problem:
    known = translated(error)
    if isinstance(known, (ConcurrentUpdate, StorageUnavailable, PoolTimeout)):
        return _unavailable(known)
    return _unexpected(error)


def _unexpected(error: Exception) -> Problem:
    incident = uuid4()
    log.error("a request failed unexpectedly", incident=str(incident), exc_info=error)
    return Problem(
        500,
        "The service failed; the request is not at fault. The log has the error under `instance`.",
        instance=incident.urn,
    )
