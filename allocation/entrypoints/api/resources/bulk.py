"""Many order lines in one request: accepted by one commit, each with an answer of its own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID, uuid5

from flask import Response, g, jsonify, request

from allocation.contract import codec
from allocation.domain.commands import Allocate, Command, Malformed, Violation
from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.problems import Problem, invalid
from allocation.entrypoints.api.resources.lines import (
    ALLOCATED,
    DISPATCHED_QTY,
    IN_PARTS,
    WAITING,
    WISHES,
)
from allocation.service_layer.unit_of_work import Message
from allocation.views import Json

MOST = 1000
"""Lines of one request."""


def _answer() -> s.Answer:
    """One answer a line; each has members of its own and no others."""
    command = {
        "id": s.uuid("The command's id."),
        "location": s.text("The URL of the command's status."),
    }
    problem = s.reference(s.PROBLEM)
    kinds = [
        s.record(status=s.one_of("pending"), **command),
        *(
            s.record(**command, **kind, optional=WISHES | {"dispatched_qty": DISPATCHED_QTY})
            for kind in (ALLOCATED, WAITING, IN_PARTS)
        ),
        s.record(status=s.one_of("rejected", "failed"), **command, problem=problem),
        s.record(status=s.one_of("rejected"), problem=problem),
    ]
    closed = [kind | {"additionalProperties": False} for kind in kinds]
    return s.Answer(
        "Lines",
        s.record(
            lines=s.array(
                {"oneOf": closed}, "One result for each line, in the order of the request."
            )
        ),
    )


ANSWER = _answer()

Line = Command | Problem
"""A line of the request: the command, or what is wrong with it."""


def answer(body: Json) -> Response:
    """Accept the good ones of the body's lines together: 202, or 200 once all are decided."""
    given = _lines(body)
    lines = _read(given)
    messages = _messages(lines, given)
    if not messages:
        raise Problem(
            "invalid input",
            errors=[Violation("lines", "has no valid line")],
            lines=list(_answers(lines, iter(messages), {})),
        )
    preferred = intake.preference(request.headers.get("Prefer", ""))
    outcomes = intake.take(messages, preferred.wait)

    answers = list(_answers(lines, iter(messages), outcomes.decided))
    pending = any(line["status"] == "pending" for line in answers)
    response = jsonify({"lines": answers})
    return intake.with_preference(response, preferred, waited=outcomes.waited, pending=pending)


def _lines(body: Json) -> list[object]:
    if body.keys() != {"lines"}:
        problem = "must be the only field" if "lines" in body else "is missing"
        raise invalid([Violation("lines", problem)])
    lines = body["lines"]
    if not isinstance(lines, list):
        raise invalid([Violation("lines", "is not a list")])
    if not 1 <= len(lines) <= MOST:
        raise invalid([Violation("lines", f"has {len(lines)} lines and may have 1 to {MOST}")])
    return lines


def _read(given: Sequence[object]) -> list[Line]:
    """The lines in their order; of two about the same order and sku the second is refused."""
    lines: list[Line] = []
    known: set[tuple[str, str]] = set()
    for read in parsing.parse_each("allocation.allocate", given):
        if isinstance(read, Malformed):
            lines.append(invalid(read.violations))
            continue
        assert isinstance(read, Allocate)
        line = (read.orderid, read.sku)
        lines.append(_twice(*line) if line in known else read)
        known.add(line)
    return lines


def _twice(orderid: str, sku: str) -> Problem:
    errors = [Violation("orderid", "line twice")]
    return Problem("line twice", errors=errors, orderid=orderid, sku=sku)


def _messages(lines: Sequence[Line], given: Sequence[object]) -> list[Message]:
    """The good lines under ids that follow from the request's.

    An Idempotency-Key stands for the request as a whole. So the first of its messages has the id
    that the key gives, whatever the lines are, and all have a correlation id that depends on every
    line, bad ones too: where these two don't go together, the key came with another request.
    """
    commands = [line for line in lines if not isinstance(line, Problem)]
    first = intake.request_id()
    meaning = [
        raw if isinstance(line, Problem) else codec.command_body(line)
        for line, raw in zip(lines, given, strict=True)
    ]
    request = uuid5(first, json.dumps(meaning, sort_keys=True))
    return [
        Message(
            uuid5(request, str(number)) if number else first,
            command,
            correlation_id=request,
            traceparent=g.traceparent,
        )
        for number, command in enumerate(commands)
    ]


def _answers(
    lines: Sequence[Line], messages: Iterator[Message], decided: Mapping[UUID, Json]
) -> Iterator[Json]:
    for index, line in enumerate(lines):
        if isinstance(line, Problem):
            yield {"status": "rejected", "problem": line.body() | {"index": index}}
            continue
        command_id = next(messages).id
        known = {"id": str(command_id), "location": intake.location(command_id)}
        if command_id not in decided:
            yield {"status": "pending", **known}
            continue
        outcome = intake.outcome(line, decided[command_id])
        if isinstance(outcome, Problem):
            status = decided[command_id]["status"]
            yield {"status": status, **known, "problem": outcome.body() | {"index": index}}
        else:
            yield {**known, **outcome}
