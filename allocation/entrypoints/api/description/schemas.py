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


def flag(description: str) -> Json:
    return {"type": "boolean", "description": description}


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
        title=text("The kind of problem in words."),
        status={"type": "integer", "description": "The HTTP status."},
        detail=text("A sentence that explains the problem."),
        optional={
            "instance": text("The id under which the log has the problem."),
            "errors": array(
                record(field={"type": "string"}, problem={"type": "string"}),
                "Every invalid field.",
            ),
            "index": count("The index of the line that has the problem; the first line is 0."),
        },
    )
    | {"description": "Problem details (RFC 9457). A refusal also has the facts that led to it."},
)
PENDING = Answer(
    "Pending",
    record(id=uuid("The command's id."), status=one_of("pending")),
    "Accepted: the command is saved and will be decided. Its status is at `Location`",
    status=202,
)
TEXT = Answer("Text", {"type": "string"})


def reference(answer: Answer) -> Json:
    return {"$ref": f"#/components/schemas/{answer.name}"}
