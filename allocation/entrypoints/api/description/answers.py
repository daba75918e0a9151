"""The shapes of the API's answers, as JSON Schemas on top of the contract's fields."""

from typing import Any

from allocation.contract import registry

Json = dict[str, Any]


def field(name: str, command: str = "allocation.dispatch") -> Json:
    """The schema of one field of a command; by default of one that looks up ids, as answers do."""
    return dict(registry.schema(command)["properties"][name])


def schemas() -> dict[str, Json]:
    """Every answer's schema by its name; all properties are always there unless said otherwise."""
    orderid, sku = field("orderid"), field("sku")
    batchref = field("batchref", "allocation.change_batch_quantity")
    qty, eta = (field(name, "allocation.create_batch") for name in ("qty", "eta"))
    changed_qty = field("qty", "allocation.change_batch_quantity")
    nothing: Json = {"type": "null"}
    standing = {
        "batchref": {"anyOf": [batchref, nothing], "description": "null: it waits."},
        "eta": {**eta, "description": "Of its batch; null: on the shelf, or waiting."},
    }
    until = {"type": "string", "format": "date-time", "description": "Until when it is held."}
    number = {
        "type": "integer",
        "minimum": 0,
        "description": "Which part of the line: each batch that serves it has one, and what waits"
        " has one. 0 for a line that was never split; no number is used twice.",
    }
    line = {
        "sku": sku,
        "part": number,
        "qty": qty,
        "status": _one_of("allocated", "reserved", "waiting", "dispatched"),
        **standing,
        "expires_at": {**until, "type": ["string", "null"]},
    }
    figures = {
        "qty": {**changed_qty, "description": "Purchased pieces."},
        "allocated": _count("Pieces that lines are promised."),
        "available": _count("Pieces that are free."),
        "eta": eta,
        "best_before": field("best_before", "allocation.create_batch"),
    }
    allocated = {
        "orderid": orderid,
        "sku": sku,
        "qty": qty,
        "status": _one_of("allocated", "dispatched"),
        "batchref": batchref,
        "eta": {**eta, "description": "Of its batch; null: on the shelf."},
    }
    waiting = {
        "orderid": orderid,
        "sku": sku,
        "qty": qty,
        "status": _one_of("waiting"),
        "batchref": nothing,
        "eta": nothing,
    }
    part = {
        "type": "object",
        "properties": {
            "part": number,
            "qty": qty,
            "status": _one_of("allocated", "reserved", "waiting", "dispatched"),
            **standing,
            "expires_at": until,
        },
        "required": ["part", "qty", "status", "batchref", "eta"],
    }
    in_parts = {
        "orderid": orderid,
        "sku": sku,
        "qty": qty,
        "status": _one_of("allocated", "reserved", "waiting", "dispatched", "in parts"),
        "parts": _list(part, "One for each batch that serves the line, and one for what waits."),
    }
    of_order = {
        "orderid": orderid,
        "lines": _count("Lines that hold all their stock now."),
        "waiting": _count("Lines of which pieces still wait for stock."),
    }
    return {
        "Pending": _object(id=_uuid("The command's id."), status=_one_of("pending")),
        "CreatedBatch": _object(
            batchref=batchref, sku=sku, qty=qty, eta=eta, status=_one_of("created")
        ),
        "ChangedBatch": _object(
            batchref=batchref, qty=changed_qty, status=_one_of("changed", "unchanged")
        ),
        "BatchOnAnotherDay": _object(
            batchref=batchref, eta=eta, status=_one_of("changed", "unchanged")
        ),
        "WrittenOffPieces": _object(
            batchref=batchref,
            qty=field("qty", "allocation.write_off"),
            reason=field("reason", "allocation.write_off"),
            status=_one_of("written off"),
            left=_count("Pieces that the batch has now."),
        ),
        "AllocatedLine": _line_answer(allocated, in_parts),
        "WaitingLine": _line_answer(waiting, in_parts),
        "Lines": _object(lines=_lines(allocated, waiting, in_parts)),
        "ReservedLine": _line_answer(
            allocated | {"status": _one_of("reserved", "allocated", "dispatched")}, in_parts
        ),
        "WaitingReservation": _line_answer(waiting, in_parts),
        "DecidedOrder": _with_optional(
            *("customer", "allocation.allocate_order"),
            orderid=orderid,
            status=_one_of("decided"),
            all_or_nothing=field("all_or_nothing", "allocation.allocate_order"),
            lines=_list(
                {
                    "type": "object",
                    "properties": {
                        "sku": sku,
                        "qty": qty,
                        "status": _one_of(
                            *("allocated", "reserved", "waiting", "dispatched"),
                            *("in parts", "rejected"),
                        ),
                        **standing,
                        "parts": _list(part, "Where several batches serve it."),
                        "expires_at": until,
                        "reason": {"type": "string", "description": "Why it was rejected."},
                    },
                    "required": ["sku", "qty", "status"],
                },
                "By sku: what became of each.",
            ),
        ),
        "Explanation": _explanation(orderid, sku),
        "ChosenStrategy": _object(
            sku=sku,
            strategy=field("strategy", "allocation.choose_strategy"),
            status=_one_of("changed", "unchanged"),
        ),
        "ConfirmedOrder": _with_optional(
            *("all_or_nothing", "allocation.confirm"),
            **of_order,
            status=_one_of("confirmed", "waiting", description="waiting: a line of it waits."),
        ),
        "ExtendedOrder": _object(
            **of_order,
            status=_one_of("extended", "unchanged", description="unchanged: it is held longer."),
            expires_at={**until, "description": "When the first of its holds ends."},
        ),
        "ReleasedOrder": _object(
            orderid=orderid,
            lines=_count("Lines that were given up, including lines that waited."),
            status=_one_of("released"),
        ),
        "DeallocatedLine": _object(orderid=orderid, sku=sku, status=_one_of("deallocated")),
        "Batch": _object(sku=sku, batchref=batchref, **figures),
        "Order": _object(orderid=orderid, lines=_list(_object(**line), "By sku.")),
        "Product": _object(
            sku=sku,
            version=_count("Counts the decisions that changed it."),
            strategy=field("strategy", "allocation.choose_strategy"),
            available=_count("Free pieces of all batches together; a line needs one batch."),
            open_batches=_count("Batches with free pieces."),
            waiting=_object(lines=_count("Lines that wait."), qty=_count("Their pieces.")),
            batches=_list(
                _object(batchref=batchref, **figures),
                "One page of its batches: first batches with free pieces, in the order in which"
                " they serve; then fully promised ones, in the same order; then empty ones, by"
                " reference.",
            ),
            next={
                "type": ["string", "null"],
                "format": "uri-reference",
                "description": "Where the next page is; null: this is the last one.",
            },
        ),
        "Command": _object(
            id=_uuid("The command's id."),
            command={"enum": sorted(registry.COMMANDS)},
            status=_one_of("pending", "succeeded", "rejected", "failed"),
            outcome={
                "type": ["object", "null"],
                "description": "What came of it; `reason` when it was rejected; null: pending.",
            },
            accepted_at={"type": "string", "format": "date-time"},
            decided_at={"type": ["string", "null"], "format": "date-time"},
        ),
        "Alive": _object(status=_one_of("alive")),
        "Ready": _object(
            status=_one_of("ready"),
            unsent=_count("Rows of the outbox that the relay has to send."),
            oldest_unsent_seconds={
                "type": "number",
                "minimum": 0,
                "description": "Age of the oldest of them; 0 when there is none.",
            },
        ),
        "Description": {"type": "object", "description": "An OpenAPI or AsyncAPI document."},
        "Text": {"type": "string"},
        "Problem": _problem(),
    }


def _lines(allocated: Json, waiting: Json, in_parts: Json) -> Json:
    """One answer a line; each has members of its own and no others."""
    command = {
        "id": _uuid("The command's id."),
        "location": {"type": "string", "description": "Where the command tells how it stands."},
    }
    problem = {"problem": {"$ref": "#/components/schemas/Problem"}}
    kinds = [
        _object(status=_one_of("pending"), **command),
        _object(**command, **allocated),
        _object(**command, **waiting),
        _object(**command, **in_parts),
        _object(status=_one_of("rejected", "failed"), **command, **problem),
        _object(status=_one_of("rejected"), **problem),
    ]
    for kind in kinds[1:4]:  # there only where the line named them
        for name in ("customer", "split"):
            kind["properties"][name] = field(name, "allocation.allocate")
    closed = [kind | {"additionalProperties": False} for kind in kinds]
    return _list({"oneOf": closed}, "In the order of the request.")


def _explanation(orderid: Json, sku: Json) -> Json:
    cause = _object(id=_uuid("The id of the command that decided it."), command={"type": "string"})
    began_with = _object(
        id=_uuid("The id of what began it all."),
        command={"type": ["string", "null"], "description": "null: it did not begin here."},
        body={"type": ["object", "null"]},
    )
    candidate = _object(
        batchref={"type": "string"},
        eta={"type": ["string", "null"], "format": "date"},
        free=_count("Pieces that were free."),
        verdict={"type": "string", "description": "Why it was chosen, or passed over."},
    )
    decision = _object(
        event={"type": "string", "description": "The type of the event that told it."},
        sequence=_count("The event's number."),
        time={"type": "string", "format": "date-time"},
        cause=cause,
        began_with=began_with,
        qty=_count("Pieces."),
    )
    decision["properties"] |= {
        "part": _count("Which part of the line, where several batches serve it."),
        "candidates": _count("Batches with free pieces; there for a choice only."),
        "considered": _list(candidate, "By preference; of many the first ones and the last."),
    }
    return _object(
        orderid=orderid,
        sku=sku,
        status=_one_of(*("allocated", "reserved", "waiting", "dispatched", "in parts", "given up")),
        decisions=_list(decision, "Those that are kept, oldest first."),
    )


def _problem() -> Json:
    made = _object(
        type={"type": "string", "format": "uri-reference", "description": "The kind of problem."},
        title={"type": "string", "description": "The kind, in words."},
        status={"type": "integer", "description": "The HTTP status."},
        detail={"type": "string", "description": "What happened, for people."},
    )
    made["properties"]["instance"] = {"type": "string", "description": "What the log calls it."}
    made["properties"]["errors"] = _list(
        _object(field={"type": "string"}, problem={"type": "string"}), "Each field that is wrong."
    )
    made["properties"]["index"] = _count("Which line has the problem; the first is 0.")
    made["description"] = "RFC 9457. A refusal also carries the facts that led to it."
    return made


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _with_optional(name: str, command: str, /, **properties: Json) -> Json:
    """An object that may also have the field `name` of the command."""
    made = _object(**properties)
    made["properties"][name] = field(name, command)
    return made


def _line_answer(*kinds: Json) -> Json:
    """One of these, with what the request said besides, and until when the line is held."""
    made = [_object(**kind) for kind in kinds]
    for kind in made:
        kind["properties"] |= {
            name: field(name, "allocation.reserve") for name in ("customer", "split")
        }
        kind["properties"]["expires_at"] = {"type": "string", "format": "date-time"}
    return {"anyOf": made}


def _list(items: Json, description: str) -> Json:
    return {"type": "array", "items": items, "description": description}


def _one_of(*values: str, description: str | None = None) -> Json:
    said = {"description": description} if description else {}
    return {"type": "string", "enum": list(values), **said}


def _count(description: str) -> Json:
    return {"type": "integer", "minimum": 0, "description": description}


def _uuid(description: str) -> Json:
    return {"type": "string", "format": "uuid", "description": description}
