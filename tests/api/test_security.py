"""Who may ask, and what browsers are told."""

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import Serve

KEY = "a key, with all rights: ü"
CLOSED = [
    ("GET", "/v1/products/LAMP"),
    ("POST", "/v1/batches"),
    ("PATCH", "/v1/batches/batch-1"),
    ("DELETE", "/v1/allocations/order-1/LAMP"),
    ("GET", "/v1/allocations/order-1"),
    ("GET", "/v1/commands/x"),
    ("GET", "/v1/nothing"),
    ("OPTIONS", "/v1/batches"),
    ("GET", "/metrics"),
]
OPEN = [
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/asyncapi.json",
    "/docs",
    "/docs/start.js",
    "/docs/events",
    "/docs/events.css",
    "/problems/unknown-sku",
]

ADVISED = {
    "Cache-Control": "no-store",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Permitted-Cross-Domain-Policies": "none",
}


@pytest.fixture
def guarded(serve: Serve, sqlite_url: str) -> FlaskClient:
    """A client of an application that has a key."""
    return serve(database_url=sqlite_url, api_key=KEY)


def bearer(key: str) -> str:
    """The header as a client sends it: UTF-8 bytes, which WSGI shows as Latin-1."""
    return f"Bearer {key}".encode().decode("latin-1")


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", bearer(KEY[:-1]), bearer(KEY + "x"), f"Basic {KEY}", KEY],
)
def test_without_the_key_nothing_is_answered(
    method: str, path: str, header: str | None, guarded: FlaskClient
) -> None:
    """401 with how to authenticate; not even what is not there shows."""
    headers = {} if header is None else {"Authorization": header}

    response = guarded.open(path, method=method, headers=headers)

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith('Bearer realm="allocation"')


@pytest.mark.parametrize(("path", "status"), [("/v1/products/LAMP", 404), ("/metrics", 200)])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key_everything_is(
    scheme: str, path: str, status: int, guarded: FlaskClient
) -> None:
    """The scheme's name has no case."""
    header = bearer(KEY).replace("Bearer", scheme)

    assert guarded.get(path, headers={"Authorization": header}).status_code == status


@pytest.mark.parametrize("path", OPEN)
def test_health_and_description_are_open(path: str, guarded: FlaskClient) -> None:
    """Probes have no key; the description tells how to send one."""
    assert guarded.get(path).status_code == 200


def test_without_a_key_in_the_settings_none_is_asked_for(client: FlaskClient) -> None:
    """The default, on loopback."""
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/v1/products/LAMP", "/nothing", "/docs"])
def test_every_answer_tells_browsers_to_be_careful(path: str, client: FlaskClient) -> None:
    """What OWASP advises: no sniffing, no frames, no strangers, nothing stored; errors too."""
    headers = client.get(path).headers

    assert {name: headers.get(name) for name in ADVISED} == ADVISED
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
