"""The page about the HTTP API, made from its OpenAPI document."""

from collections.abc import Iterable, Mapping
from typing import Any

from allocation.entrypoints.api.description.openapi import document
from tools.reference import markdown
from tools.reference.markdown import block, code, fields, kind, table


def page() -> str:
    """Each operation, then the schemas that the answers name."""
    described: Any = document()
    schemas = described["components"]["schemas"]
    return markdown.page(
        "HTTP",
        "the OpenAPI document, which the service serves at `/openapi.json`",
        "`allocation openapi` prints that document, for programs. Every error is"
        " `application/problem+json`, with the fields of [Problem](#problem).",
        *(
            part
            for path, methods in described["paths"].items()
            for method, operation in methods.items()
            for part in _operation(f"{method.upper()} {path}", operation)
        ),
        "## Schemas of answers",
        *(part for name, schema in schemas.items() for part in _schema(name, schema)),
    )


def _operation(head: str, operation: Mapping[str, Any]) -> Iterable[str]:
    yield f"## {head}"
    summary, description = operation["summary"], operation.get("description", "")
    yield description if description.startswith(summary) else f"{summary}. {description}".strip()
    scopes = {scope for way in operation["security"] for scope in way.get("key", ())}
    yield (
        f"Scope of the key: {', '.join(map(code, sorted(scopes)))}." if scopes else "Needs no key."
    )
    yield table(
        ("parameter", "in", "type", "meaning"),
        [
            (code(each["name"]), each["in"], kind(each["schema"]), each.get("description", ""))
            for each in operation.get("parameters", ())
        ],
    )
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body, {code(media)}:"
        for schema in content["schema"].get("oneOf", [content["schema"]]):
            yield fields(schema)
        examples = content.get("examples", {"": {"value": content.get("example")}})
        for example in examples.values():
            yield block(example["value"])
    yield table(
        ("status", "answer", "schema"),
        [
            (status, answer["description"], ", ".join(_schemas(answer)))
            for status, answer in operation["responses"].items()
        ],
    )


def _schemas(answer: Mapping[str, Any]) -> Iterable[str]:
    for media, content in answer.get("content", {}).items():
        schema = content.get("schema", {})
        named = [part["$ref"] for part in schema.get("oneOf", [schema]) if "$ref" in part]
        names = [reference.rpartition("/")[2] for reference in named]
        yield from (f"[{name}](#{name.lower()})" for name in names) if names else [code(media)]


def _schema(name: str, schema: Mapping[str, Any]) -> Iterable[str]:
    yield f"### {name}"
    yield schema.get("description", "")
    yield fields(schema) or f"It is: {kind(schema)}."
