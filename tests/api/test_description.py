"""/openapi.json tells of every route, and /docs shows it without a network."""

import re

import jsonschema_rs
import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from allocation.contract import registry
from allocation.entrypoints.api.description.openapi import ROUTES, document
from allocation.entrypoints.api.http.problems import KINDS, type_uri
from tests.api.conftest import Serve

OF_PAGES = {"pages", "login", "assets"}
"""Blueprints whose answers are for people."""


def test_the_description_is_valid_openapi(client: FlaskClient) -> None:
    """By the validator of the OpenAPI community, examples included."""
    description = client.get("/openapi.json").json

    assert description is not None
    assert description["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(description).iter_errors()) == []


def test_the_description_has_every_route_and_no_other(client: FlaskClient) -> None:
    """Method by method; pages for people, and what Flask adds by itself (HEAD, OPTIONS), aside."""
    served = {
        (method.lower(), re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in client.application.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] not in OF_PAGES
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    described = {
        (method, path) for path, methods in document()["paths"].items() for method in methods
    }
    assert described == served


def test_the_description_asks_for_a_key_where_the_application_does(
    serve: Serve, sqlite_url: str
) -> None:
    client = serve(database_url=sqlite_url, api_key="a-long-enough-key")
    operations = [
        (method, path, operation)
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    ]

    closed = {
        (method, path)
        for method, path, _ in operations
        if client.open(re.sub(r"{\w+}", "x", path), method=method.upper()).status_code == 401
    }

    assert closed == {(method, path) for method, path, each in operations if each["security"]}


def test_the_description_names_the_scope_that_an_operation_takes() -> None:
    """`read` to look, `write` to change."""
    scopes = {
        (method, scope)
        for methods in document()["paths"].values()
        for method, operation in methods.items()
        for way in operation["security"]
        for scope in way.get("key", [])
    }

    changing = {(method, "write") for method in ("post", "patch", "put", "delete")}
    assert scopes == {("get", "read")} | changing


def test_bodies_are_described_by_the_contract_itself() -> None:
    """The very schema and example of the command, less what the path gives."""
    paths = document()["paths"]
    whole = paths["/v1/batches"]["post"]["requestBody"]["content"]["application/json"]
    of_write_off = paths["/v1/batches/{batchref}/write-offs"]["post"]["requestBody"]
    less = of_write_off["content"]["application/json"]

    of_batch = registry.schema("allocation.create_batch")
    of_change = registry.schema("allocation.write_off")
    parts = ("type", "properties", "required", "additionalProperties")
    assert whole == {
        "schema": {part: of_batch[part] for part in parts},
        "example": registry.example("allocation.create_batch"),
    }
    assert less == {
        "schema": {
            "type": "object",
            "properties": {name: of_change["properties"][name] for name in ("qty", "reason")},
            "required": ["qty", "reason"],
            "additionalProperties": False,
        },
        "example": {"qty": 2, "reason": "water damage"},
    }


def test_a_change_of_one_of_several_fields_is_described_by_one_body_each() -> None:
    """Each requires its field, as null counts; the version comes by a header."""
    patch = document()["paths"]["/v1/batches/{batchref}"]["patch"]
    described = patch["requestBody"]["content"]["application/json"]

    bodies = described["schema"]["oneOf"]
    assert [(list(each["properties"]), each["required"]) for each in bodies] == [
        (["qty"], ["qty"]),
        (["best_before"], ["best_before"]),
    ]
    assert [list(each["value"]) for each in described["examples"].values()] == [
        ["qty"],
        ["best_before"],
    ]
    assert "If-Match" in [each["name"] for each in patch["parameters"]]
    assert "412" in patch["responses"]


def test_a_line_is_described_alone_and_among_many() -> None:
    """Both bodies by the contract's schema, each with an example that keeps it."""
    body = document()["paths"]["/v1/allocations"]["post"]["requestBody"]
    described = body["content"]["application/json"]

    of_line = registry.schema("allocation.allocate")
    one, many = described["schema"]["oneOf"]
    parts = ("type", "properties", "required", "additionalProperties")
    assert one == {part: of_line[part] for part in parts}
    assert many["properties"]["lines"]["items"] == one
    assert described["examples"]["one"]["value"] == registry.example("allocation.allocate")
    for index, example in enumerate(described["examples"].values()):
        jsonschema_rs.validate(described["schema"], example["value"])
        jsonschema_rs.validate((one, many)[index], example["value"])


def test_every_schema_of_an_answer_is_used() -> None:
    used = set(re.findall(r"'#/components/schemas/(\w+)'", str(document()["paths"])))

    assert used == set(document()["components"]["schemas"])


def test_no_two_answers_share_a_name() -> None:
    answers = [answer for route in ROUTES for answer in route.answers]
    by_name = {answer.name: answer for answer in answers}

    assert [answer for answer in answers if by_name[answer.name] != answer] == []


def test_a_route_refuses_for_known_reasons_only() -> None:
    named = {reason for route in ROUTES for reason in route.refusals}

    assert {KINDS[reason].status for reason in named} == {409}


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_needs_nothing_from_elsewhere(path: str, client: FlaskClient) -> None:
    """Its scripts and styles are our own routes, and its policy allows no others."""
    page = client.get(path)
    addresses = re.findall(r'(?:src|href|data-description)="([^"#]+)"', page.text)

    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert sorted(set(addresses)) == [
        "/",
        "/assets/icon.svg",
        "/assets/site.css",
        "/docs",
        "/docs/events",
        "/docs/start.js",
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
        "/openapi.json",
        "/operations",
        "/orders",
    ]
    paths = {address for address in addresses if address not in ("/operations", "/orders", "/")}
    assert {client.get(address).status_code for address in paths} == {200}


def test_the_page_s_viewer_knows_the_version_of_the_description(client: FlaskClient) -> None:
    """Swagger UI reads OpenAPI 3.1 from its version 5 on."""
    viewer = client.get("/docs/swagger-ui-bundle.js").text

    found = re.search(r'PACKAGE_VERSION:"(\d+)\.', viewer)
    assert found
    assert int(found[1]) >= 5


def test_every_kind_of_problem_can_be_looked_up(client: FlaskClient) -> None:
    """The `type` of a problem is an address that explains it."""
    explained = {kind: client.get(type_uri(kind)).text for kind in KINDS}

    assert explained == {title: f"{title}\n\n{kind.sentence}\n" for title, kind in KINDS.items()}
