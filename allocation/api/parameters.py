"""What an address says: the ids in its path and the parameters of its query, checked once."""

from collections.abc import Iterator

from flask import Flask, request

from allocation.adapters import contract, identifiers
from allocation.adapters.contract import Violation
from allocation.api.problems import invalid

LONGEST = 4096
"""Characters of a parameter; what our own pages link to is shorter."""

_IDS = {
    "orderid": "allocation.confirm",
    "sku": "allocation.choose_strategy",
    "batchref": "allocation.change_batch_quantity",
}
"""Each id with a command that looks it up: addresses name what is stored, whatever its id."""

_READ_QUERIES = {"pages", "login", "stream"}
"""Blueprints that read the query; to all others it says nothing."""

_DIGITS = 18  # less than a BIGINT has


def register(app: Flask) -> None:
    """Answer a request of `app` whose address can't be used with a problem that says why."""

    @app.before_request
    def check() -> None:
        if broken := list(_broken()):
            raise invalid(broken)


def number(text: str | None) -> int | None:
    """The whole number that a parameter is, as far as a database can hold it."""
    is_number = text and text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if text and is_number else None


def field(name: str) -> contract.Json | None:
    """The schema of an id in a path; None for what is no id."""
    if name not in _IDS:
        return None
    schema: contract.Json = contract.schema(_IDS[name])["properties"][name]
    return schema


def _broken() -> Iterator[Violation]:
    for name, text in (request.view_args or {}).items():
        if name in _IDS:
            yield from _of_id(name, text)
    if request.blueprint not in _READ_QUERIES:
        return
    for name, text in request.args.items(multi=True):
        if problem := _too_long(text) or identifiers.unstorable(text):
            yield Violation(name if name.isprintable() else ascii(name), problem)
        elif name in _IDS and (text or request.blueprint == "stream"):  # a form may be empty
            yield from _of_id(name, text)


def _of_id(name: str, text: str) -> Iterator[Violation]:
    found = contract.violations(_IDS[name], {name: text})
    return (violation for violation in found if violation.field == name)


def _too_long(text: str) -> str | None:
    return f"has more than {LONGEST} characters" if len(text) > LONGEST else None
