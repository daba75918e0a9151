"""Checks the ids in paths and the query parameters of all requests, in one place."""

from collections.abc import Iterator

from flask import Flask, request

from allocation.contract import codec, identifiers, registry
from allocation.contract.codec import Violation
from allocation.entrypoints.api.http.problems import invalid

LONGEST = 4096
"""Characters of a parameter, at most; our own pages link to shorter ones."""

_IDS = {
    "orderid": "allocation.confirm",
    "sku": "allocation.choose_strategy",
    "batchref": "allocation.change_batch_quantity",
}
"""By id: a command that looks it up, as an address may name any id that is stored."""

_READ_QUERIES = {"pages", "login", "stream"}
"""Blueprints whose query is checked here; `products` checks its own, the others read none."""

_DIGITS = 18  # less than a BIGINT has


def register(app: Flask) -> None:
    """Refuse requests of `app` with an invalid address; the problem names what is wrong."""

    @app.before_request
    def check() -> None:
        if broken := list(_broken()):
            raise invalid(broken)


def number(text: str | None) -> int | None:
    """The parameter as a whole number; None if it is none, or too large for a database."""
    is_number = text and text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if text and is_number else None


def field(name: str) -> codec.Json | None:
    """The schema of an id in a path; None for a name that is not an id's."""
    if name not in _IDS:
        return None
    schema: codec.Json = registry.schema(_IDS[name])["properties"][name]
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
    found = codec.violations(_IDS[name], {name: text})
    return (violation for violation in found if violation.field == name)


def _too_long(text: str) -> str | None:
    return f"has more than {LONGEST} characters" if len(text) > LONGEST else None
