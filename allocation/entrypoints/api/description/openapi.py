"""The API described as OpenAPI 3.1, on the contract's own schemas so that it can't drift."""

import re
from functools import cache
from typing import Any

from allocation.adapters.sql.api_keys import READ, WRITE
from allocation.contract import registry
from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.description.schemas import PENDING, PROBLEM, Answer, reference
from allocation.entrypoints.api.http import parsing
from allocation.entrypoints.api.http.parsing import IDS, Parameter
from allocation.entrypoints.api.http.preconditions import IF_MATCH
from allocation.entrypoints.api.http.problems import CONTENT_TYPE, type_uri
from allocation.entrypoints.api.http.routes import JSON, Route
from allocation.entrypoints.api.http.waiting import LONGEST
from allocation.entrypoints.api.resources import (
    allocations,
    batches,
    commands,
    docs,
    health,
    products,
    reservations,
    stream,
)
from allocation.entrypoints.api.resources.bulk import MOST

Json = dict[str, Any]

RESOURCES = (
    batches.resource,
    allocations.resource,
    reservations.resource,
    products.resource,
    commands.resource,
    stream.resource,
    health.resource,
    docs.resource,
)
"""All of the API; the pages for people are no part of its description."""
ROUTES = tuple(route for resource in RESOURCES for route in resource.routes.values())

_BULK = {
    200: "For many lines: the outcome of each; only with `Prefer: wait`.",
    202: "For many lines: for each the URL of its status, its outcome, or its problem.",
}
_BAD = {
    400: "The body is not JSON, or the Idempotency-Key or If-Match is malformed.",
    401: "The API key is missing or wrong.",
    403: "The API key lacks the scope: `read` for GET, `write` for other methods. Or no key"
    " exists yet, and `Host` is not a name of loopback.",
    404: "The resource does not exist.",
    409: "A rule refused the command; only with `Prefer: wait`. `type` is one of {types}.",
    412: "The resource has another version than If-Match says; only with `Prefer: wait`. Without"
    " waiting the response is 202, and the command's status says that it was rejected.",
    413: "The body is larger than 1 MiB.",
    415: "The body is not application/json.",
    422: "A field breaks the contract, or the Idempotency-Key was used before with another"
    " request.",
    429: "The caller sent too many requests, or its address too many wrong keys.",
    500: "The service failed; the request is not at fault.",
    503: "The database does not respond, or (`/problems/overloaded`) too many commands are"
    " pending or too many streams are open.",
}
_ACCEPTED = (
    " The command is accepted first and decided later: the response is 202, or with `Prefer:"
    " wait=N` the outcome."
)
_PERCENT_ENCODED = (
    "One percent-encoded segment of the path: a slash is `%2F`, a percent sign is `%25`."
)
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes it safe to send the same request again: all requests with the same key"
    " take effect once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": f"`wait=N` waits for the outcome for at most N seconds; N is at most {LONGEST}.",
    "schema": {"type": "string", "examples": ["wait=5"]},
}

_IF_MATCH = {
    "name": IF_MATCH,
    "in": "header",
    "description": "The `ETag` of the resource as the caller read it: if it is another one when the"
    " command is decided, the command is refused. `*` or no header: any.",
    "schema": {
        "anyOf": [
            {"type": "string", "const": "*"},
            {"type": "string", "pattern": '^"[!#-~]{1,100}"$'},
        ]
    },
}

_TO_ITS_COMMAND = {
    "operationId": "get_v1_commands_command_id",
    "parameters": {"command_id": "$response.body#/id"},
    "description": "The command's status. Of many lines each has an id of its own.",
}


@cache
def document() -> Json:
    """The whole description; the same object each time."""
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Allocation",
            "version": "1",
            "description": "Allocates stock from batches to order lines. Changes are accepted"
            " first and decided later; a command that was answered with 202 is never lost.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key from `allocation keys create`, or the value of"
                    " `ALLOCATION_API_KEY`.",
                }
            },
        },
    }


def open_endpoints() -> set[str]:
    """Flask's names of the routes that require no key."""
    return {
        endpoint
        for resource in RESOURCES
        for endpoint, route in resource.routes.items()
        if route.is_open
    }


def _schemas() -> dict[str, Json]:
    """The schema of every answer of the routes, by its name."""
    answers = [
        answer
        for route in ROUTES
        for answer in (*route.answers, *([route.bulk] if route.bulk else ()))
    ]
    return {answer.name: answer.schema for answer in (*answers, PROBLEM)}


def _operation(route: Route) -> Json:
    described = [*map(_path_parameter, route.path_parameters), *map(_parameter, route.parameters)]
    responses = {answer.status: _good(route, answer) for answer in route.answers}
    responses |= {status: _bad(route, status) for status in route.problems}
    made: Json = {
        "operationId": re.sub(r"\W+", "_", f"{route.method}{route.path}").strip("_"),
        "summary": route.summary,
        "description": route.description or f"{route.summary}.",
        "tags": [_tag(route.path)],
        "security": [] if route.is_open else [{"key": [_scope(route)]}, {}],
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }
    if route.commands:
        described.append(_KEY)
        said = [registry.schema(command)["description"] for command in route.commands]
        made["description"] = " Or: ".join(said) + _ACCEPTED
        made |= _request_body(route)
    if route.waits:
        described.append(_PREFER)
    if route.takes_version:
        described.append(_IF_MATCH)
    if described:
        made["parameters"] = described
    return made


def _scope(route: Route) -> str:
    return READ if route.method == "get" else WRITE


def _request_body(route: Route) -> Json:
    """The member `requestBody`; none if there is no body."""
    contents = [_content(command, route.path_parameters) for command in route.commands]
    if len(contents) > 1:
        return {"requestBody": {"required": True, "content": {JSON: _one_of(contents)}}}
    [content] = contents
    if route.method == "delete" or not content["schema"]["properties"]:
        return {}
    body = {
        "required": bool(content["schema"]["required"]),
        "content": {JSON: _or_many(content) if route.bulk else content},
    }
    return {"requestBody": body}


def _content(command: str, from_path: list[str]) -> Json:
    """The command's schema and example, without the fields that the path gives."""
    schema = registry.schema(command)
    kept = {name: schema["properties"][name] for name in parsing.fields(command, from_path)}
    example = {name: of for name, of in registry.example(command).items() if name in kept}
    body = {
        "type": "object",
        "properties": kept,
        "required": [name for name in schema["required"] if name in kept],
        "additionalProperties": False,
    }
    return {"schema": body, "example": example}


def _one_of(contents: list[Json]) -> Json:
    """Bodies with one field each, which says what changes; null counts as given."""
    fields = [next(iter(content["schema"]["properties"])) for content in contents]
    schemas = [
        content["schema"] | {"required": [field]}
        for field, content in zip(fields, contents, strict=True)
    ]
    return {
        "schema": {"oneOf": schemas},
        "examples": {
            field: {"summary": f"Change `{field}`", "value": content["example"]}
            for field, content in zip(fields, contents, strict=True)
        },
    }


def _or_many(one: Json) -> Json:
    """The command's schema and example, and beside each the one of many lines."""
    lines = {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST,
        "items": one["schema"],
        "description": "The valid lines are accepted together; each invalid line gets a problem"
        " as its result.",
    }
    many = s.record(lines=lines) | {"additionalProperties": False}
    another = one["example"] | {"sku": "BLUE-TABLE", "qty": 1}
    return {
        "schema": {"oneOf": [one["schema"], many]},
        "examples": {
            "one": {"summary": "One line", "value": one["example"]},
            "many": {"summary": "Many lines", "value": {"lines": [one["example"], another]}},
        },
    }


def _good(route: Route, answer: Answer) -> Json:
    schema: Json = reference(answer)
    description = f"{answer.description or route.summary}."
    if route.commands and answer is not PENDING:
        description = f"{answer.description}; only with `Prefer: wait`."
    if route.bulk and answer.status in _BULK:
        schema = {"oneOf": [schema, reference(route.bulk)]}
        description += f" {_BULK[answer.status]}"
    made: Json = {"description": description, "content": {route.content: {"schema": schema}}}
    if route.has_etag:
        made["headers"] = {"ETag": _header("The version of the resource, for If-Match.")}
    if route.waits:
        made["headers"] = {"Preference-Applied": _header("The preference that was honoured.")}
    if route.commands:
        made["headers"]["Location"] = _header(
            "The URL of the command's status, if the request is a single command."
        )
    if answer is PENDING:
        made["headers"]["Retry-After"] = _header("Seconds after which to ask again.")
        made["links"] = {"command": _TO_ITS_COMMAND}
    return made


def _bad(route: Route, status: int) -> Json:
    types = ", ".join(f"`{type_uri(reason)}`" for reason in (*route.refusals, "dropped"))
    made: Json = {
        "description": _BAD[status].replace("{types}", types),
        "content": {CONTENT_TYPE: {"schema": reference(PROBLEM)}},
    }
    if status == 401:
        made["headers"] = {"WWW-Authenticate": _header("How to authenticate.")}
    if status in (429, 503):
        made["headers"] = {"Retry-After": _header("Seconds after which to try again.")}
    return made


def _header(description: str) -> Json:
    return {"description": description, "schema": {"type": "string"}}


def _path_parameter(name: str) -> Json:
    made: Json = {"name": name, "in": "path", "required": True}
    if name in IDS:
        return made | {"description": _PERCENT_ENCODED, "schema": s.field(name, IDS[name])}
    return made | {"schema": {"type": "string"}}


def _parameter(declared: Parameter) -> Json:
    return {
        "name": declared.name,
        "in": declared.kind,
        "description": declared.description,
        "schema": declared.schema,
    }


def _tag(path: str) -> str:
    return path.split("/")[2] if path.startswith("/v1/") else "service"
