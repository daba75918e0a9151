"""What a request carries: its body, read strictly as JSON and held against the contract."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from allocation.contract import codec, registry
from allocation.contract.codec import Invalid, Violation
from allocation.domain.commands import Command
from allocation.entrypoints.api.http import intake
from allocation.entrypoints.api.http.problems import Problem, invalid

LIMIT = 1024 * 1024
"""Bytes that a body has at most."""

READ_AT_MOST = LIMIT + 1
"""What Flask's MAX_CONTENT_LENGTH must be. Without a Content-Length, Werkzeug cuts a body there and
says nothing; the byte beyond the limit tells."""


def command(name: str, **from_path: str) -> Command:
    """The command `name` that the request's JSON body and its path make together.

    If the path has all that is required, there may be no body. Raises Problem, naming every field
    that breaks the contract.
    """
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    is_optional = set(registry.schema(name)["required"]) <= from_path.keys()
    body = read() if has_body or not is_optional else {}
    if isinstance(body, dict):
        twice = [Violation(field, "is given by the path") for field in from_path if field in body]
        if twice:
            raise invalid(twice)
        body = {**body, **from_path}
    return parse(name, body)


def command_from_path(name: str, **from_path: str) -> Command:
    """The command `name` of a request that has no body; a body that is there is ignored."""
    return parse(name, from_path)


def parse(name: str, body: Any) -> Command:
    """The command `name` that the body makes. Raises Problem as `command` does."""
    [parsed] = parse_each(name, [body])
    if isinstance(parsed, list):
        raise invalid(parsed)
    return parsed


def parse_each(name: str, bodies: Sequence[Any]) -> list[Command | list[Violation]]:
    """The command that each body makes, or everything in which it breaks the contract.

    A request that was accepted before keeps its meaning, whatever the rule for new ids is now.
    """
    parsed = [codec.read_command(name, body) for body in bodies]
    is_repeat = any(isinstance(each, Invalid) and each.meant for each in parsed) and (
        intake.is_repeat()
    )
    found: list[Command | list[Violation]] = []
    for each in parsed:
        if not isinstance(each, Invalid):
            found.append(each)
        else:
            found.append(each.meant if is_repeat and each.meant else each.violations)
    return found


def read() -> Any:
    """The body: one JSON text in UTF-8, without the liberties that Python's parser takes."""
    body = _bytes()
    if request.mimetype != "application/json" or "Content-Encoding" in request.headers:
        raise UnsupportedMediaType("The body must be application/json, and not encoded.")
    try:
        text = body.decode("utf-8")
        return _DECODER.decode(text)
    except RecursionError as error:
        raise Problem("malformed JSON", "The body is nested too deeply.") from error
    except ValueError as error:
        raise Problem("malformed JSON", f"The body is not JSON: {error}.") from error


def _bytes() -> bytes:
    body = request.stream.read()
    if len(body) > LIMIT:
        raise RequestEntityTooLarge
    return bytes(body)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
