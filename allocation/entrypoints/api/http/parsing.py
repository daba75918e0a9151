"""What a request carries: its path, query parameters and JSON body, each checked strictly."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from flask import Flask, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.routing import BaseConverter

from allocation.contract import codec, identifiers, registry
from allocation.domain.commands import Command, Malformed, Violation
from allocation.entrypoints.api.http import intake
from allocation.entrypoints.api.http.preconditions import IF_MATCH, VERSION, takes_version
from allocation.entrypoints.api.http.problems import Problem, invalid

ONLY_IN_MESSAGES = frozenset({"reported"})
"""Fields of commands that no request has: they say what happened in another system."""

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

LIMIT = 1024 * 1024
"""Bytes that a body has at most."""

READ_AT_MOST = LIMIT + 1
"""What Flask's MAX_CONTENT_LENGTH must be. Without a Content-Length, Werkzeug cuts a body there and
raises no error; the byte beyond the limit shows it."""

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


def read_parameters(*parameters: Parameter) -> list[Any]:
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
    # A BIGINT has more digits.
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None


def check_address() -> None:
    """Refuse a request with an invalid address; the problem names what is wrong."""
    if broken := list(_broken()):
        raise invalid(broken)


def _broken() -> Iterator[Violation]:
    for name, text in (request.view_args or {}).items():
        if name in IDS:
            yield from _of_id(name, text)
    if request.blueprint not in _OF_PAGES:
        return
    for name, text in request.args.items(multi=True):
        too_long = f"has more than {LONGEST} characters" if len(text) > LONGEST else None
        if problem := too_long or identifiers.unstorable(text):
            yield Violation(name if name.isprintable() else ascii(name), problem)
        elif name in IDS and (text or request.blueprint == "stream"):  # a form may be empty
            yield from _of_id(name, text)


def _of_id(name: str, text: str) -> Iterator[Violation]:
    found = codec.violations(IDS[name], {name: text})
    return (violation for violation in found if violation.field == name)


def route_by_sent_path(app: Flask) -> None:
    """Route `app` by the path as it was sent, in one canonical spelling; call this before routes.

    WSGI servers decode the path before it is routed, so that `SO%2F1` would become two segments.
    Here PATH_INFO stays percent-encoded, routes match it segment by segment, and the converter
    decodes each segment, which may have any character, also an encoded slash. `request.path` and
    `request.full_path` can be used in links as they are.
    """
    app.url_map.converters["default"] = Segment
    inner: Wsgi = app.wsgi_app

    def with_sent_path(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["PATH_INFO"] = canonical(sent_path(environ))
        return inner(environ, start_response)

    app.wsgi_app = with_sent_path  # type: ignore[method-assign]


class Segment(BaseConverter):
    """A path's segment in `canonical` spelling; bytes that are not UTF-8 become surrogates."""

    def to_python(self, value: str) -> str:
        return unquote(value, errors="surrogateescape")

    def to_url(self, value: object) -> str:
        return quote(str(value), safe="")


def sent_path(environ: Environ) -> str:
    """The path as it was sent, behind SCRIPT_NAME; rebuilt if the server does not pass it on."""
    decoded = environ.get("PATH_INFO", "")
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if not raw.startswith("/"):  # the absolute form of a request to a proxy
        raw = urlsplit(raw).path
    raw = raw.partition("?")[0].partition("#")[0].removeprefix(environ.get("SCRIPT_NAME", ""))
    # A middleware may have changed PATH_INFO alone, which then counts.
    if unquote(raw, "latin-1") == decoded:
        return raw
    return quote(decoded.encode("latin-1"))


def canonical(path: str) -> str:
    # A server hands over the bytes of the request as Latin-1.
    segments = path.encode("latin-1").split(b"/")
    return "/".join(quote(unquote_to_bytes(segment), safe="") for segment in segments)


def command(names: Sequence[str], given: Mapping[str, str]) -> Command:
    """The command that the request's JSON body makes together with what is `given` elsewhere.

    Of several commands, the only field of the body says which. If path and headers give all that is
    required, there may be no body. Raises Problem, naming every field that breaks the contract.
    """
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    is_optional = len(names) == 1 and set(registry.schema(names[0])["required"]) <= given.keys()
    body = read_body() if has_body or not is_optional else {}
    if not isinstance(body, dict):
        return parse(names[0], body)
    where = dict.fromkeys(given, "is given by the path")
    if any(map(takes_version, names)):
        where[VERSION] = f"is given by the header {IF_MATCH}"
    known = {field for name in names for field in registry.schema(name)["properties"]}
    where |= dict.fromkeys(ONLY_IN_MESSAGES & known, "is for messages only")
    if twice := [Violation(field, where[field]) for field in where if field in body]:
        raise invalid(twice)
    return parse(_chosen(names, body, given), {**body, **given})


def fields(name: str, from_path: Collection[str]) -> list[str]:
    """The fields of the command `name` that a body may have, beside those of the path."""
    elsewhere = {*from_path, VERSION, *ONLY_IN_MESSAGES}
    return [each for each in registry.schema(name)["properties"] if each not in elsewhere]


def _chosen(names: Sequence[str], body: Mapping[str, Any], given: Collection[str]) -> str:
    """Of several commands, the one whose field the body has."""
    if len(names) == 1:
        return names[0]
    by_field = {field: name for name in names for field in fields(name, given)}
    chosen = [field for field in by_field if field in body]
    if len(chosen) == 1:
        return by_field[chosen[0]]
    if chosen:
        raise invalid(
            Violation(field, f"can't change together with {chosen[0]}") for field in chosen[1:]
        )
    if body:
        return names[0]  # whose contract names the field that is too much
    choices = " or ".join(by_field)
    raise invalid(Violation(field, f"is missing: one of {choices} is needed") for field in by_field)


def parse(name: str, body: Any) -> Command:
    """The command `name` that the body makes. Raises Problem as `command` does."""
    [parsed] = parse_each(name, [body])
    if isinstance(parsed, Malformed):
        raise invalid(parsed.violations)
    return parsed


def parse_each(name: str, bodies: Sequence[Any]) -> list[Command]:
    """The command that each body makes, Malformed if it breaks the contract.

    A request that was accepted before keeps its meaning, whatever the rule for new ids is now.
    """
    parsed = [codec.parse_command(name, body) for body in bodies]
    if any(each.meant is not each for each in parsed) and intake.is_repeat():
        return [each.meant for each in parsed]
    return parsed


def read_body() -> Any:
    """The body: one JSON text in UTF-8, without the liberties that Python's parser takes."""
    body = request.stream.read()
    if len(body) > LIMIT:
        raise RequestEntityTooLarge
    if request.mimetype != "application/json" or "Content-Encoding" in request.headers:
        raise UnsupportedMediaType("The body must be application/json without a content encoding.")
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except RecursionError as error:
        raise Problem("malformed JSON", "The body is nested too deeply.") from error
    except ValueError as error:
        raise Problem("malformed JSON", f"The body is not JSON: {error}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
