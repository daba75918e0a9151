"""Every route of the API with all that it can answer: what its description is built from."""

from dataclasses import dataclass
from typing import Any

from allocation.views.stock import CURSOR, LIMIT, MOST

JSON = "application/json"
_READ = (401, 403, 404, 422, 429, 500, 503)
_DELETE = (400, 401, 403, 409, 422, 429, 500, 503)
_BODY = (400, 401, 403, 409, 413, 415, 422, 429, 500, 503)


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `answers` names the schema of each good status, `problems` the bad ones.

    `command` is the command that it accepts; `is_open`: it wants no key. `bulk` names the schema
    of what it answers, by 200 or 202, to a body of many lines. `description` says more than the
    summary; that of a command comes from the contract. `parameters` are those of the query and the
    headers.
    """

    method: str
    path: str
    summary: str
    answers: dict[int, str]
    problems: tuple[int, ...]
    command: str | None = None
    content: str = JSON
    is_open: bool = False
    bulk: str | None = None
    description: str = ""
    parameters: tuple[dict[str, Any], ...] = ()


def _parameter(name: str, kind: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": kind, "description": description, "schema": schema}


_IDS = {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 255}}
_POSITION = {"type": "string", "pattern": "^[0-9]{1,18}$"}


ROUTES = (
    Route(
        "post",
        "/v1/batches",
        "Put stock on the books",
        {201: "CreatedBatch", 202: "Pending"},
        _BODY,
        command="allocation.create_batch",
    ),
    Route(
        "patch",
        "/v1/batches/{batchref}",
        "Set what a batch holds",
        {200: "ChangedBatch", 202: "Pending"},
        _BODY,
        command="allocation.change_batch_quantity",
    ),
    Route(
        "get",
        "/v1/batches/{batchref}",
        "Show a batch",
        {200: "Batch"},
        _READ,
        description="What it holds, what of it is promised, and when it arrives."
        " Used-up batches are shown, too.",
    ),
    Route(
        "put",
        "/v1/batches/{batchref}/eta",
        "Set when a batch arrives",
        {200: "BatchOnAnotherDay", 202: "Pending"},
        _BODY,
        command="allocation.change_batch_eta",
    ),
    Route(
        "post",
        "/v1/batches/{batchref}/write-offs",
        "Take pieces off a batch",
        {200: "WrittenOffPieces", 202: "Pending"},
        _BODY,
        command="allocation.write_off",
    ),
    Route(
        "post",
        "/v1/allocations",
        "Ask for stock for an order line, or for many",
        {200: "WaitingLine", 201: "AllocatedLine", 202: "Pending"},
        _BODY,
        command="allocation.allocate",
        bulk="Lines",
    ),
    Route(
        "delete",
        "/v1/allocations/{orderid}/{sku}",
        "Give up an order line",
        {200: "DeallocatedLine", 202: "Pending"},
        _DELETE,
        command="allocation.deallocate",
    ),
    Route(
        "post",
        "/v1/orders",
        "Ask for stock for a whole order",
        {200: "DecidedOrder", 202: "Pending"},
        _BODY,
        command="allocation.allocate_order",
    ),
    Route(
        "post",
        "/v1/reservations",
        "Hold stock for an order line, for a while",
        {200: "WaitingReservation", 201: "ReservedLine", 202: "Pending"},
        _BODY,
        command="allocation.reserve",
    ),
    Route(
        "post",
        "/v1/reservations/{orderid}/confirm",
        "Make what is held for an order its own",
        {200: "ConfirmedOrder", 202: "Pending"},
        _BODY,
        command="allocation.confirm",
    ),
    Route(
        "post",
        "/v1/reservations/{orderid}/extend",
        "Hold it for longer, once",
        {200: "ExtendedOrder", 202: "Pending"},
        _BODY,
        command="allocation.extend",
    ),
    Route(
        "delete",
        "/v1/reservations/{orderid}",
        "Give up what is held for an order",
        {200: "ReleasedOrder", 202: "Pending"},
        _DELETE,
        command="allocation.release",
    ),
    Route(
        "get",
        "/v1/allocations/{orderid}/{sku}/explanation",
        "Explain why an order line stands where it does",
        {200: "Explanation"},
        _READ,
        description="Every decision about it that is kept: what was chosen, from what, and why.",
    ),
    Route(
        "get",
        "/v1/allocations/{orderid}",
        "Show how an order stands",
        {200: "Order"},
        _READ,
        description="Every line: from which batch it is served, or that it waits.",
    ),
    Route(
        "put",
        "/v1/products/{sku}/strategy",
        "Choose the order in which a product's batches serve",
        {200: "ChosenStrategy", 202: "Pending"},
        _BODY,
        command="allocation.choose_strategy",
    ),
    Route(
        "get",
        "/v1/products/{sku}",
        "Show a product's stock",
        {200: "Product"},
        _READ,
        description="How much is free, how much waits for stock, and its batches, page by page."
        " `next` leads to the next page; it is null on the last one.",
        parameters=(
            _parameter(
                *("limit", "query", "Batches on a page."),
                {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT},
            ),
            _parameter(
                *("open", "query", "true: only batches with free pieces."),
                {"type": "boolean", "default": False},
            ),
            _parameter(
                *("after", "query", "Where the page begins, as `next` of the page before says."),
                {"type": "string", "pattern": f"^{CURSOR}$"},
            ),
        ),
    ),
    Route(
        "get",
        "/v1/commands/{command_id}",
        "Show how a command stands",
        {200: "Command"},
        (401, 403, 404, 429, 500, 503),
        description="Pending, or what came of it: succeeded, rejected by a rule, or failed.",
    ),
    Route(
        "get",
        "/stream",
        "Hear of events as they happen",
        {200: "Text"},
        (401, 403, 422, 429, 500, 503),
        content="text/event-stream",
        description="Server-sent events, without an end: `event` is the type's name, such as"
        " `allocated`, `data` the CloudEvent. `reset` says that what came since `Last-Event-ID` is"
        " not all kept: ask for the whole state again.",
        parameters=(
            _parameter("sku", "query", "Of these skus alone.", _IDS),
            _parameter("orderid", "query", "Of these orders alone.", _IDS),
            _parameter("lastEventId", "query", "As the header, which counts first.", _POSITION),
            _parameter("Last-Event-ID", "header", "The last `id`: what came after it.", _POSITION),
        ),
    ),
    Route(
        "get",
        "/healthz",
        "Tell whether the process lives",
        {200: "Alive"},
        (500,),
        is_open=True,
    ),
    Route(
        "get",
        "/readyz",
        "Tell whether the service can do its work",
        {200: "Ready"},
        (500, 503),
        is_open=True,
    ),
    Route(
        "get",
        "/metrics",
        "Show the figures, for Prometheus",
        {200: "Text"},
        (401, 403, 429, 500, 503),
        content="text/plain",
    ),
    Route(
        "get", "/openapi.json", "Show this description", {200: "Description"}, (500,), is_open=True
    ),
    Route(
        "get",
        "/asyncapi.json",
        "Show the description of the messages",
        {200: "Description"},
        (500,),
        is_open=True,
    ),
    Route(
        "get",
        "/docs",
        "Show this description as a page",
        {200: "Text"},
        (500,),
        content="text/html",
        is_open=True,
    ),
    Route(
        "get",
        "/docs/events",
        "Show the messages as a page",
        {200: "Text"},
        (500,),
        content="text/html",
        is_open=True,
    ),
    Route(
        "get",
        "/docs/{name}",
        "Fetch a file of these pages",
        {200: "Text"},
        (404, 500),
        content="*/*",
        is_open=True,
    ),
    Route(
        "get",
        "/problems/{kind}",
        "Explain a kind of problem",
        {200: "Text"},
        (404, 500),
        content="text/plain",
        is_open=True,
    ),
)
