"""Short ways to write the JSON Schemas of responses, on top of the contract's fields."""

from dataclasses import dataclass
from typing import Any

from allocation.contract import registry

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its schema, under the name that it has in the description.

    `description` is a sentence without its full stop; without it the route's summary serves.
    """

    name: str
    schema: Json
    description: str = ""
    status: int = 200


def field(name: str, command: str) -> Json:
    """The schema of one field of a command, as the contract has it."""
    return dict(registry.schema(command)["properties"][name])


def record(*, optional: Json | None = None, **properties: Json) -> Json:
    """An object that always has the `properties`, and may have the `optional` ones."""
    return {
        "type": "object",
        "properties": properties | (optional or {}),
        "required": list(properties),
    }


def text(description: str) -> Json:
    return {"type": "string", "description": description}


def array(items: Json, description: str) -> Json:
    return {"type": "array", "items": items, "description": description}


def one_of(*values: str, description: str | None = None) -> Json:
    described = {"description": description} if description else {}
    return {"type": "string", "enum": list(values), **described}


def count(description: str) -> Json:
    return {"type": "integer", "minimum": 0, "description": description}


def uuid(description: str) -> Json:
    return {"type": "string", "format": "uuid", "description": description}


ORDERID = field("orderid", "allocation.dispatch")
SKU = field("sku", "allocation.dispatch")
"""Ids as commands look them up: an answer may have any id that is stored."""
BATCHREF = field("batchref", "allocation.change_batch_quantity")
QTY = field("qty", "allocation.create_batch")
ETA = field("eta", "allocation.create_batch")
TIME: Json = {"type": "string", "format": "date-time"}

PROBLEM = Answer(
    "Problem",
    record(
        type={"type": "string", "format": "uri-reference", "description": "The kind of problem."},
        title=text("The kind, in words."),
        status={"type": "integer", "description": "The HTTP status."},
        detail=text("What happened, for people."),
        optional={
            "instance": text("What the log calls it."),
            "errors": array(
                record(field={"type": "string"}, problem={"type": "string"}),
                "Each field that is wrong.",
            ),
            "index": count("Which line has the problem; the first is 0."),
        },
    )
    | {"description": "RFC 9457. A refusal also carries the facts that led to it."},
)
PENDING = Answer(
    "Pending",
    record(id=uuid("The command's id."), status=one_of("pending")),
    "Accepted: it is on record and will be decided. Ask at `Location`",
    status=202,
)
TEXT = Answer("Text", {"type": "string"})


def reference(answer: Answer) -> Json:
    return {"$ref": f"#/components/schemas/{answer.name}"}
