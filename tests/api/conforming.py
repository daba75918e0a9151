"""A test client that holds every answer against the API's own description."""

import re
from typing import Any

import jsonschema_rs
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from allocation.entrypoints.api.description.openapi import ROUTES, document
from allocation.entrypoints.api.http.problems import CONTENT_TYPE
from allocation.entrypoints.api.http.routes import Route


class ConformingClient(FlaskClient):
    """Fails when an answer has a status, a shape or a field that /openapi.json doesn't tell of."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        response = super().open(*args, **kwargs)
        check(response)
        return response


def check(response: TestResponse) -> None:
    """Raise AssertionError when the response is not as described, or an error no problem."""
    if response.status_code >= 400:
        assert response.mimetype == CONTENT_TYPE
        assert response.json is not None
        assert response.json["status"] == response.status_code
        assert "Traceback" not in response.text
    route = _route(response)
    if route is None:
        return

    described = document()["paths"][route.path][route.method]["responses"]
    content = described[str(response.status_code)]["content"]
    if response.status_code == 409:
        assert response.json is not None
        assert response.json["title"] in (*route.refusals, "dropped")
    if response.mimetype in ("application/json", CONTENT_TYPE):
        _hold(response.json, content[response.mimetype]["schema"])
    else:
        assert {response.mimetype, "*/*"} & set(content)


def _route(response: TestResponse) -> Route | None:
    """The described route of this request; None when there is no such."""
    # As it was sent: an encoded slash is no end of a segment.
    sent = response.request.environ["RAW_URI"].partition("?")[0]
    for route in ROUTES:
        pattern = re.sub(r"{\w+}", "[^/]+", route.path)
        same_method = route.method == response.request.method.lower()
        if same_method and re.fullmatch(pattern, sent):
            return route
    return None


def _hold(body: Any, schema: dict[str, Any]) -> None:
    components = document()["components"]
    jsonschema_rs.validate({**schema, "components": components}, body, validate_formats=True)
    names = [kind["$ref"].rpartition("/")[2] for kind in schema.get("oneOf", [schema])]
    if names[0] not in ("Problem", "Description"):  # whose members are open
        schemas = [components["schemas"][name] for name in names]
        kinds = [kind for schema in schemas for kind in schema.get("anyOf", [schema])]
        told = [set(kind["properties"]) for kind in kinds]
        assert any(set(body) <= members for members in told)
