"""Pages for people: who is let in by a session, and what stands against forged forms."""

import http.client
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlencode

import pytest
from flask import Flask, g, render_template_string
from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.test import TestResponse

from allocation.adapters.sql.api_keys import ApiKeys
from allocation.entrypoints.api.auth import security
from tests.api.conftest import Serve
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

KEY = "a key, with all rights: ü"
BEYOND = {"host": "0.0.0.0"}
HTML = {"Accept": "text/html"}
PAGE = "{{ csrf_token() }} {{ logged_in() }}"
ServePages = Callable[..., FlaskClient]


def add_pages(app: Flask) -> None:
    """One page to look at, one form to send, one that fails; by their names of the pages."""

    def fail() -> str:
        raise SQLAlchemyError("secret details")

    for method, path, name, view in (
        ("GET", "/stock", "look", lambda: render_template_string(PAGE)),
        ("POST", "/stock", "change", lambda: f"changed by {g.caller.name}"),
        ("GET", "/broken", "fail", fail),
    ):
        app.add_url_rule(path, f"pages.{name}", view, methods=[method])


@pytest.fixture
def serve_pages(serve: Serve, sqlite_url: str) -> ServePages:
    """Makes a browser of the application with pages and these settings."""

    def make(**settings: str) -> FlaskClient:
        app = serve(**{"database_url": sqlite_url, **settings}).application
        add_pages(app)
        app.test_client_class = FlaskClient
        return app.test_client()

    return make


@pytest.fixture
def visitor(serve_pages: ServePages) -> FlaskClient:
    """A browser of an application that others can reach."""
    return serve_pages(api_key=KEY, **BEYOND)


def token(visitor: FlaskClient, path: str = "/login") -> str:
    """The token of the form, or of the page, at this path."""
    page = visitor.get(path).text
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    return found[1] if found else page.split()[0]


def log_in(visitor: FlaskClient, key: str, there: str = "/stock") -> TestResponse:
    data = {"csrf_token": token(visitor), "key": key, "next": there}
    return visitor.post("/login", data=data)


def docs_token(visitor: FlaskClient) -> str:
    """The token of the session, as the page of the API has it."""
    found = re.search(r'data-token="([^"]+)"', visitor.get("/docs").text)
    assert found
    return found[1]


def cookie(response: TestResponse) -> dict[str, str]:
    """The attributes of the cookie that it sets, if it does."""
    name, *attributes = response.headers.get("Set-Cookie", "").split("; ")
    pairs = [each.partition("=") for each in [name.partition("=")[0], *attributes] if each]
    return {key: value for key, _, value in pairs}


def test_a_page_leads_to_the_form_and_the_form_back_to_the_page(visitor: FlaskClient) -> None:
    """With its whole address, by GET."""
    sent_away = visitor.get("/stock?sku=LAMP&sku=B%26W")
    form = visitor.get(sent_away.headers["Location"])
    there = re.search(r'name="next" value="([^"]+)"', form.text)
    assert there
    sent_back = log_in(visitor, KEY, there[1].replace("&amp;", "&"))

    assert sent_away.status_code == 303
    assert sent_away.headers["Location"] == "/login?next=/stock%3Fsku%3DLAMP%26sku%3DB%2526W"
    assert (sent_back.status_code, sent_back.headers["Location"]) == (
        303,
        "/stock?sku=LAMP&sku=B%26W",
    )
    assert visitor.get("/stock").status_code == 200


def test_a_page_without_a_session_tells_each_asker_what_it_understands(
    visitor: FlaskClient,
) -> None:
    """A part of a page is told where to go; a form that is sent begins anew; paths may be wrong."""
    part = visitor.get("/stock", headers={"HX-Request": "true"})
    sent = visitor.post("/stock")
    unknown = visitor.get("/stok", headers=HTML)
    program = visitor.get("/stok")
    api = visitor.get("/v1/stok", headers=HTML)

    assert (part.status_code, part.headers["HX-Redirect"]) == (401, "/login")
    assert (sent.status_code, sent.headers["Location"]) == (303, "/login?next=/stock")
    assert (unknown.status_code, unknown.headers["Location"]) == (303, "/login?next=/stok")
    assert [(told.status_code, told.mimetype) for told in (program, api)] == [
        (401, "application/problem+json")
    ] * 2


def test_a_session_alone_opens_pages_and_nothing_else(visitor: FlaskClient) -> None:
    """Browsers send cookies with requests of other sites: the API requires the session's token."""
    log_in(visitor, KEY)
    batch = {"batchref": "b-1", "sku": "LAMP", "qty": 1}

    assert visitor.get("/stock").status_code == 200
    assert visitor.get("/v1/products/LAMP").status_code == 401
    assert visitor.get("/metrics").status_code == 401
    assert visitor.post("/v1/batches", json=batch).status_code == 401


@pytest.mark.parametrize("scopes", [["read"], ["read", "write"]])
def test_a_session_with_its_token_opens_the_api_as_its_key_does(
    scopes: list[str], serve_pages: ServePages, engine: Engine
) -> None:
    """As the page of the API sends it; the scopes of the key count."""
    visitor = serve_pages(**BEYOND, api_key=KEY)
    log_in(visitor, ApiKeys(engine).create("shop", scopes)[1])
    headers = {"X-CSRFToken": docs_token(visitor)}
    batch = {"batchref": "b-1", "sku": "LAMP", "qty": 1}

    read = visitor.get("/v1/products/LAMP", headers=headers)
    sent = visitor.post("/v1/batches", json=batch, headers=headers)

    assert read.status_code == 404
    assert sent.status_code == (202 if "write" in scopes else 403)


def test_the_token_of_another_session_or_none_opens_nothing(serve_pages: ServePages) -> None:
    visitor, other, nobody = (serve_pages(**BEYOND, api_key=KEY) for _ in range(3))
    log_in(visitor, KEY)
    log_in(other, KEY)
    mine, theirs = docs_token(visitor), docs_token(other)

    def status(asking: FlaskClient, token: str) -> int:
        return asking.get("/v1/products/LAMP", headers={"X-CSRFToken": token}).status_code

    assert status(visitor, mine) == 404
    assert [status(visitor, wrong) for wrong in ("", "x", theirs)] == [401] * 3
    assert status(nobody, mine) == 401
    visitor.post("/logout", data={"csrf_token": mine})
    assert status(visitor, mine) == 401


def test_a_key_counts_whatever_session_comes_with_it(visitor: FlaskClient) -> None:
    log_in(visitor, KEY)
    headers = {"X-CSRFToken": docs_token(visitor), "Authorization": "Bearer wrong"}

    assert visitor.get("/v1/products/LAMP", headers=headers).status_code == 401


def test_the_page_of_the_api_has_a_token_only_for_who_is_logged_in(visitor: FlaskClient) -> None:
    before = visitor.get("/docs")

    assert "data-token" not in before.text
    assert "Set-Cookie" not in before.headers
    log_in(visitor, KEY)
    assert docs_token(visitor)


def test_a_key_opens_pages_too(visitor: FlaskClient) -> None:
    """A program reads them without a session; a wrong key counts, whatever the cookie says."""
    bearer = f"Bearer {KEY}".encode().decode("latin-1")

    alone = visitor.get("/stock", headers={"Authorization": bearer})
    log_in(visitor, KEY)
    wrong = visitor.get("/stock", headers={"Authorization": "Bearer wrong"})

    assert (alone.status_code, wrong.status_code) == (200, 303)


def test_a_wrong_key_is_told_at_its_field(visitor: FlaskClient) -> None:
    """What was typed is not repeated; the place to go to is kept; no session begins."""
    told = log_in(visitor, "no such key", "/stock?a=b")

    assert told.status_code == 401
    assert 'aria-invalid="true" aria-describedby="error hint"' in told.text
    assert '<p id="error" class="error" role="alert">The API key is not valid.</p>' in told.text
    assert 'name="next" value="/stock?a=b"' in told.text
    assert "no such key" not in told.text
    assert visitor.get("/stock").status_code == 303


def test_whoever_guesses_at_the_form_is_told_to_wait(visitor: FlaskClient) -> None:
    """Together with those who guess by header; as a page."""
    for number in range(20):
        visitor.get("/metrics", headers={"Authorization": f"Bearer guess-{number}"})

    told = [log_in(visitor, f"guess-{number}") for number in range(20)]

    assert {each.status_code for each in told} == {401, 429}
    assert (told[-1].status_code, told[-1].mimetype) == (429, "text/html")
    assert "<h1>Too many requests</h1>" in told[-1].text
    assert told[-1].headers["Retry-After"].isdigit()
    assert log_in(visitor, KEY).status_code == 303


@pytest.mark.parametrize(
    "there",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "stock",
        "/\r\nSet-Cookie: a=b",
        "",
    ],
)
def test_the_form_leads_nowhere_else(visitor: FlaskClient, there: str) -> None:
    """Whatever a link to it says: to a path on this host, or to the first page."""
    assert log_in(visitor, KEY, there).headers["Location"] == "/"


def test_the_cookie_is_closed_to_scripts_and_other_sites_and_names_no_key(
    visitor: FlaskClient,
) -> None:
    """Secure where TLS ends in front; it is not written at each use."""
    plain = log_in(visitor, KEY)
    data = {"csrf_token": token(visitor), "key": KEY}
    tls = visitor.post("/login", data=data, headers={"X-Forwarded-Proto": "https"})

    expected = {"allocation_session": "", "HttpOnly": "", "Path": "/", "SameSite": "Lax"}
    told = cookie(plain)
    left = parsedate_to_datetime(told.pop("Expires")) - datetime.now(UTC)
    assert told == expected
    assert security.SESSION_LIFETIME - timedelta(minutes=1) < left <= security.SESSION_LIFETIME
    assert "Secure" in cookie(tls)
    with visitor.session_transaction() as session:
        assert KEY not in str(dict(session))
    visitor.get(
        "/broken"
    )  # its form to log out has a token, of which the cookie knows from then on
    assert "Set-Cookie" not in visitor.get("/broken").headers


def test_a_session_in_use_goes_on_and_one_that_is_not_ends(
    visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cookie is written anew once an hour; after 12 hours without one it is worth nothing."""
    log_in(visitor, KEY)
    visitor.get("/stock")
    unchanged = visitor.get("/stock")
    with visitor.session_transaction() as session:
        session["written"] -= security.SESSION_REFRESHED
    renewed = visitor.get("/stock")
    app = visitor.application
    monkeypatch.setitem(app.config, "PERMANENT_SESSION_LIFETIME", security.SESSION_LIFETIME * -1)
    ended = visitor.get("/stock")

    assert "Set-Cookie" not in unchanged.headers
    assert "Expires" in cookie(renewed)
    assert ended.status_code == 303


def test_logging_in_leaves_nothing_of_the_session_before(visitor: FlaskClient) -> None:
    """Who planted a session in a browser knows nothing of the one after."""
    with visitor.session_transaction() as session:
        session["planted"] = "x"
    before = token(visitor)
    log_in(visitor, KEY)

    with visitor.session_transaction() as session:
        assert set(session) == {"key", "written", "_permanent"}
    assert visitor.post("/stock", data={"csrf_token": before}).status_code == 400


def test_logging_out_ends_the_session(visitor: FlaskClient) -> None:
    """By a form of its own, which has a token too."""
    log_in(visitor, KEY)
    forged = visitor.post("/logout")
    still = visitor.get("/stock").status_code
    left = visitor.post("/logout", data={"csrf_token": token(visitor, "/stock")})

    assert (forged.status_code, still) == (400, 200)
    assert (left.status_code, left.headers["Location"]) == (303, "/login")
    assert visitor.get("/stock").status_code == 303


def test_a_revoked_key_ends_its_sessions_within_seconds(
    serve_pages: ServePages, engine: Engine
) -> None:
    """Each request looks at the key again."""
    key, text = ApiKeys(engine).create("shop", ["read", "write"])
    visitor = serve_pages(**BEYOND)
    log_in(visitor, text)
    before = visitor.get("/stock").status_code

    ApiKeys(engine).revoke(key.id)

    eventually(lambda: visitor.get("/stock").status_code == 303, within=5, what="the session over")
    assert before == 200


def test_a_key_that_may_only_look_sees_pages_and_sends_no_form(
    serve_pages: ServePages, engine: Engine
) -> None:
    """403 with the reason, as a page that leads to another key."""
    key, text = ApiKeys(engine).create("dashboard", ["read"])
    visitor = serve_pages(**BEYOND)
    log_in(visitor, text)

    seen = visitor.get("/stock")
    refused = visitor.post("/stock", data={"csrf_token": seen.text.split()[0]})

    assert (seen.status_code, refused.status_code) == (200, 403)
    assert "<p>This request requires a key with the scope write.</p>" in refused.text
    assert '<a href="/login">log in with another key</a>' in refused.text
    with visitor.session_transaction() as session:
        assert session["key"] == key.id


@pytest.mark.parametrize("settings", [{}, {"api_key": KEY}], ids=["no key", "a key"])
def test_a_form_without_its_token_is_refused(
    serve_pages: ServePages, settings: dict[str, str]
) -> None:
    """Without keys too: a foreign site can send forms to 127.0.0.1. The API needs no token."""
    visitor, foreign = serve_pages(**settings), serve_pages(**settings)
    if settings:
        log_in(visitor, KEY)
        log_in(foreign, KEY)
    own, others = token(visitor, "/stock"), token(foreign, "/stock")

    without = visitor.post("/stock")
    wrong = visitor.post("/stock", data={"csrf_token": others})
    by_form = visitor.post("/stock", data={"csrf_token": own})
    by_header = visitor.post("/stock", headers={"X-CSRFToken": own})

    assert [each.status_code for each in (without, wrong, by_form, by_header)] == [
        *(400, 400),
        *(200, 200),
    ]
    assert without.mimetype == "text/html"
    assert "The form has expired. Reload its page and try again." in without.text


def test_on_loopback_without_keys_pages_are_open(serve_pages: ServePages) -> None:
    """And the form leads on at once."""
    visitor = serve_pages()

    form = visitor.get("/login?next=/stock")

    assert visitor.get("/stock").text.endswith("False")
    assert (form.status_code, form.headers["Location"]) == (303, "/stock")


@pytest.mark.parametrize("path", ["/stock", "/v1/products/LAMP", "/metrics"])
def test_without_keys_a_strange_name_for_loopback_is_refused(
    serve_pages: ServePages, path: str
) -> None:
    """A foreign site whose name leads to 127.0.0.1 is, to a browser, the same site as we are."""
    names = ["localhost", "127.0.0.1:5005", "[::1]:5005", "evil.example:5005", "127.0.0.1.evil.io"]
    visitor = serve_pages()

    told = [visitor.get(path, headers={"Host": name}).status_code == 403 for name in names]
    probe = visitor.get("/healthz", headers={"Host": "evil.example"})
    with_key = serve_pages(api_key=KEY).get("/login", headers={"Host": "shop.example"})

    assert told == [False, False, False, True, True]
    assert (probe.status_code, with_key.status_code) == (200, 200)


def test_errors_on_pages_are_pages_and_those_of_the_api_are_problems(
    serve_pages: ServePages,
) -> None:
    """The same sentences; a person's unknown path is told as a page, if it is none of the API."""
    visitor = serve_pages()

    wrong = visitor.put("/stock")
    unknown = visitor.get("/stok", headers=HTML)
    broken = visitor.get("/broken")
    program = visitor.get("/stok", headers={"Accept": "*/*"})
    api = visitor.get("/v1/stok", headers=HTML)

    assert (unknown.status_code, unknown.mimetype) == (404, "text/html")
    assert "<p>There is no resource at this path.</p>" in unknown.text
    assert unknown.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert (broken.status_code, broken.mimetype) == (500, "text/html")
    assert "urn:uuid:" in broken.text
    assert "secret details" not in broken.text
    assert wrong.status_code == 405
    assert [(each.status_code, each.mimetype) for each in (program, api)] == [
        (404, "application/problem+json")
    ] * 2


def test_while_the_database_is_away_nobody_logs_in(serve_pages: ServePages) -> None:
    """But with the key of the settings; the others are told to try again, as a page."""
    visitor = serve_pages(
        database_url="postgresql://me:secret@127.0.0.1:1/none", api_key=KEY, **BEYOND
    )

    away = log_in(visitor, "alloc_1_2")
    inside = log_in(visitor, KEY)

    assert (away.status_code, away.mimetype) == (503, "text/html")
    assert away.headers["Retry-After"] == "2"
    assert inside.status_code == 303
    assert visitor.get("/stock").status_code == 200


def test_the_form_needs_no_script_and_nothing_from_elsewhere(visitor: FlaskClient) -> None:
    """A label, one field, its own style for light and dark."""
    form = visitor.get("/login")

    addresses = re.findall(r'(?:src|href|action)="([^"]+)"', form.text)
    style = visitor.get("/assets/site.css")
    assert addresses == [
        "/assets/icon.svg",
        "/assets/site.css",
        "/assets/pages.css",
        "#main",
        "/",
        "/login",
    ]
    assert '<label for="key">' in form.text
    assert "<script" not in form.text
    assert "script-src" not in form.headers["Content-Security-Policy"]
    assert "form-action 'self'" in form.headers["Content-Security-Policy"]
    assert (style.status_code, style.mimetype) == (200, "text/css")
    assert "color-scheme: light dark" in style.text
    assert "Set-Cookie" not in style.headers


def test_what_one_process_signs_the_others_take(
    processes: Callable[..., Process], sqlite_url: str, engine: Engine, tmp_path: Path
) -> None:
    """Keys are in the database alone: what signs was made before the processes were."""
    _, text = ApiKeys(engine).create("shop", ["read"])
    [port] = free_ports(1)
    env = {
        "ALLOCATION_DATABASE_URL": sqlite_url,
        "ALLOCATION_STATE_DIR": str(tmp_path),
        "ALLOCATION_PORT": str(port),
        "ALLOCATION_API_WORKERS": "2",
        "ALLOCATION_LOG_LEVEL": "DEBUG",
    }
    api = processes([sys.executable, "-m", "allocation", "api"], name="api", env=env)
    api.wait_for_log("The API is ready")

    def request(method: str, path: str, cookie: str, body: str = "") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, {"Cookie": cookie, "Accept": "text/html"} | kind)
        return connection.getresponse()

    form = request("GET", "/login", "")
    found = re.search(r'name="csrf_token" value="([^"]+)"', form.read().decode())
    assert found
    body = urlencode({"csrf_token": found[1], "key": text})
    entered = request("POST", "/login", form.headers["Set-Cookie"].partition(";")[0], body)
    session = entered.headers["Set-Cookie"].partition(";")[0]
    # A path that no route knows: 404 with a session, 303 without.
    statuses = {request("GET", "/nothing", session).status for _ in range(30)}

    assert entered.status == 303
    assert statuses == {404}
    assert text.rpartition("_")[2] not in api.logs()
