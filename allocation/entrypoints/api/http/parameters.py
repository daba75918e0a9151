"""Query parameters and the ids in paths: each is declared once and checked by its declaration."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Flask, request

from allocation.contract import codec, identifiers
from allocation.contract.codec import Violation
from allocation.entrypoints.api.http.problems import invalid

LONGEST = 4096
"""Characters of a parameter, at most; our own pages link to shorter ones."""

IDS = {
    "orderid": "allocation.confirm",
    "sku": "allocation.choose_strategy",
    "batchref": "allocation.change_batch_quantity",
}
"""By id: a command that looks it up, as an address may name any id that is stored."""

_OF_PAGES = {"pages", "login", "stream"}
"""Blueprints of which every parameter is checked; the others check what they declare."""

_DIGITS = 18  # less than a BIGINT has


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, or a header: its schema describes and checks it.

    `problem` is what the error says of a value that does not match the schema's pattern.
    """

    name: str
    description: str
    schema: codec.Json
    kind: str = "query"
    problem: str = ""

    def given(self) -> str | None:
        """Its text in the request."""
        return (request.args if self.kind == "query" else request.headers).get(self.name)

    def read(self, text: str | None) -> Any:
        """The value of the text, or the default. Raises ValueError with what is wrong."""
        kind, default = self.schema["type"], self.schema.get("default")
        if text is None:
            return default
        if kind == "integer":
            least, most = self.schema["minimum"], self.schema["maximum"]
            value = number(text)
            if value is None or not least <= value <= most:
                raise ValueError(f"must be a whole number from {least} to {most}")
            return value
        if kind == "boolean":
            if text not in ("true", "false"):
                raise ValueError("must be true or false")
            return text == "true"
        if re.fullmatch(self.schema["pattern"], text) is None:
            raise ValueError(self.problem)
        return text


def read(*parameters: Parameter) -> list[Any]:
    """The values of the request's parameters. Raises Problem, naming each that is wrong."""
    values, wrong = [], []
    for parameter in parameters:
        try:
            values.append(parameter.read(parameter.given()))
        except ValueError as error:
            wrong.append(Violation(parameter.name, str(error)))
    if wrong:
        raise invalid(wrong)
    return values


def number(text: str | None) -> int | None:
    """The text as a whole number; None if it is none, or too large for a database."""
    is_number = text and text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if text and is_number else None


def register(app: Flask) -> None:
    """Refuse requests of `app` with an invalid address; the problem names what is wrong."""

    @app.before_request
    def check() -> None:
        if broken := list(_broken()):
            raise invalid(broken)


def _broken() -> Iterator[Violation]:
    for name, text in (request.view_args or {}).items():
        if name in IDS:
            yield from _of_id(name, text)
    if request.blueprint not in _OF_PAGES:
        return
    for name, text in request.args.items(multi=True):
        if problem := _too_long(text) or identifiers.unstorable(text):
            yield Violation(name if name.isprintable() else ascii(name), problem)
        elif name in IDS and (text or request.blueprint == "stream"):  # a form may be empty
            yield from _of_id(name, text)


def _of_id(name: str, text: str) -> Iterator[Violation]:
    found = codec.violations(IDS[name], {name: text})
    return (violation for violation in found if violation.field == name)


def _too_long(text: str) -> str | None:
    return f"has more than {LONGEST} characters" if len(text) > LONGEST else None
