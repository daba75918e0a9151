"""The operations pages: queues, dead letters and their replay, on the embedded broker."""

import csv
import json
import tracemalloc
import uuid
from collections.abc import Callable
from io import StringIO
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup, Tag
from flask.testing import FlaskClient
from sqlalchemy import Engine

from allocation import bootstrap
from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.api_keys import ApiKeys
from allocation.entrypoints.api.pages import operations
from allocation.entrypoints.worker.app import app
from allocation.messaging.dead_letters import LARGEST_BODY
from tests.api.browsing import Browser, rows, text
from tests.api.conftest import Serve
from tests.servers.ports import free_ports

DEAD_LETTERS = "/operations/dead-letters"


@pytest.fixture
def serve_pages(serve: Serve, sqlite_url: str) -> Callable[..., Browser]:
    """Makes browsers of the application with these settings."""

    def make(**settings: str) -> Browser:
        served = serve(database_url=sqlite_url, **settings).application
        served.test_client_class = FlaskClient
        return Browser(served.test_client())

    return make


@pytest.fixture
def visitor(serve_pages: Callable[..., Browser]) -> Browser:
    """A browser where every queue is declared."""
    made = serve_pages()
    with bootstrap.build().broker() as connection:
        topology.declare(connection)
    return made


def bury(reason: str, queue: str = topology.DEAD, orderid: str = "order-1") -> str:
    """Put a command among the dead letters; its id."""
    task = app.amqp.as_task_v2(
        str(uuid.uuid4()), "allocation.allocate", kwargs={"orderid": orderid, "sku": "A", "qty": 1}
    )
    headers = task.headers | {"x-reason": reason, "x-error": f"OSError: {reason}"}
    with bootstrap.build().broker() as connection:
        connection.Producer().publish(
            task.body, exchange="", routing_key=queue, headers=headers, serializer="json"
        )
    return str(headers["id"])


def depths() -> dict[str, int | None]:
    """The queues that hold something."""
    with bootstrap.build().broker() as connection:
        found = {name: topology.depth(connection, name) for name in topology.names()}
    return {name: depth for name, depth in found.items() if depth}


def replay(visitor: Browser, page: BeautifulSoup, number: int = 0) -> BeautifulSoup:
    """Click one of the page's buttons."""
    form = page.find_all("form")[number]
    given = {each["name"]: each["value"] for each in form.find_all("input")}
    response = visitor.client.post(str(form["action"]), data=given)
    assert response.status_code == 303
    return visitor.get(response.headers["Location"])


def test_the_queues_are_shown_with_what_they_hold(visitor: Browser) -> None:
    """Those with dead letters lead to them."""
    bury("failed")

    page = visitor.get("/operations")

    shown = dict(rows(page, "Messages in each queue"))
    assert list(shown) == [
        *("allocation.commands", "allocation.inbound", "warehouse.events", "notification.events"),
        *("allocation.dead", "allocation.inbound.dead"),
        *("warehouse.events.dead", "notification.events.dead"),
    ]
    assert shown.pop("allocation.dead") == "1 View the dead letters of allocation.dead"
    assert set(shown.values()) == {"0"}


def test_the_figures_are_those_of_the_database(visitor: Browser) -> None:
    """A command that nobody decided yet is pending, and not sent."""
    visitor.client.post("/v1/batches", json={"batchref": "b-1", "sku": "BED", "qty": 5})

    figures = text(visitor.get("/operations").find(class_="figures"))

    assert figures == (
        "Decided in the last minute 0 Pending 1 the oldest for 0 seconds"
        " Follow-ups 0 Overdue 0 Not published yet 1 the oldest for 0 seconds Lines waiting 0"
    )


def test_missing_queues_are_named_with_what_to_do(serve_pages: Callable[..., Browser]) -> None:
    """Nobody declared them."""
    page = serve_pages().get("/operations")

    assert dict(rows(page, "Messages in each queue"))["warehouse.events"] == "missing"
    assert "allocation topology" in text(page.find(class_="notice"))


@pytest.mark.parametrize("path", ["/operations", DEAD_LETTERS])
def test_a_broker_that_is_away_is_said_and_the_rest_is_shown(
    serve_pages: Callable[..., Browser], path: str
) -> None:
    """The page itself is there."""
    [nobody] = free_ports(1)

    page = serve_pages(broker_url=f"amqp://127.0.0.1:{nobody}//").get(path)

    said = "The broker does not respond; the log of the API has the error."
    assert text(page.find(role="alert")) == said


def test_replaying_while_the_broker_is_away_says_so(
    serve_pages: Callable[..., Browser],
) -> None:
    """Nothing was moved."""
    [nobody] = free_ports(1)
    visitor = serve_pages(broker_url=f"amqp://127.0.0.1:{nobody}//")
    token = visitor.get("/new-batch").find("input", attrs={"name": "csrf_token"})
    assert token is not None

    answer = visitor.client.post(f"{DEAD_LETTERS}/replay", data={"csrf_token": token["value"]})

    assert (answer.status_code, answer.mimetype) == (503, "text/html")
    assert "The broker does not respond" in answer.text


def test_dead_letters_are_grouped_by_their_causes(visitor: Browser) -> None:
    """The most first; a group leads to its letters."""
    for reason in ("failed", "unknown field", "failed"):
        bury(reason)

    page = visitor.get(DEAD_LETTERS)

    failed = "Every attempt failed"
    unknown = "The command has a field that this release doesn't know"
    assert rows(page, "Dead letters by") == [
        [f"{failed} OSError", "allocation.allocate", "allocation.dead", "2", replays(failed)],
        [unknown, "allocation.allocate", "allocation.dead", "1", replays(unknown)],
    ]
    assert page.find("article") is None


def replays(reason: str) -> str:
    return f"Replay dead letters with the reason: {reason}"


def test_the_letters_of_a_cause_are_shown_with_headers_and_body(visitor: Browser) -> None:
    """Not those of another cause."""
    bury("unknown field")
    letter_id = bury("failed", orderid="<order>")

    page = visitor.get(f"{DEAD_LETTERS}?{urlencode({'reason': 'failed'})}")

    [letter] = page.find_all("article")
    assert text(letter.h2) == f"allocation.allocate {letter_id}"
    assert "OSError: failed" in text(letter)
    assert '"orderid": "<order>"' in text(letter.pre)
    assert "x-reason: failed" in text(letter.pre)


def test_a_letter_tells_its_times_as_people_write_them(visitor: Browser) -> None:
    """A forged time is shown as it came."""
    with bootstrap.build().broker() as connection:
        for last in ("2026-11-28T18:25:07+00:00", "<soon>"):
            connection.Producer().publish(
                {}, exchange="", routing_key=topology.DEAD, headers={"x-last": last}
            )

    page = visitor.get(f"{DEAD_LETTERS}?queue=allocation.dead")

    told = [text(letter.find(class_="hint")) for letter in page.find_all("article")]
    assert told == ["last on 28 November 2026, 18:25 UTC", "last on <soon>"]


def test_whoever_may_only_read_sees_dead_letters_and_replays_none(
    serve_pages: Callable[..., Browser], visitor: Browser, engine: Engine
) -> None:
    bury("failed")
    reader = serve_pages()
    key = ApiKeys(engine).create("look", ["read"])[1]
    assert reader.send(reader.get("/login"), "/login", key=key).status_code == 303

    for path in (DEAD_LETTERS, f"{DEAD_LETTERS}?reason=failed"):
        page = reader.get(path)
        assert len(rows(page, "Dead letters by")) == 1
        assert [form["action"] for form in page.find_all("form")] == ["/logout"]


def test_a_page_of_dead_letters_is_told_what_is_new_and_else_nothing(visitor: Browser) -> None:
    """Reading dead letters hides them from other consumers, so it is not done needlessly."""
    bury("failed")
    live = visitor.get(DEAD_LETTERS).find(id="live")
    assert isinstance(live, Tag)
    seen = json.loads(str(live["hx-headers"]))

    nothing_new = visitor.client.get(DEAD_LETTERS, headers=seen)
    bury("unknown field")
    something_new = visitor.client.get(DEAD_LETTERS, headers=seen)

    assert live["hx-trigger"] == "every 5s"
    assert (nothing_new.status_code, nothing_new.text) == (204, "")
    assert something_new.status_code == 200
    assert len(rows(BeautifulSoup(something_new.text, "html.parser"), "Dead letters by")) == 2


def test_one_letter_is_replayed(visitor: Browser) -> None:
    """The others stay."""
    bury("failed")
    bury("failed")
    page = visitor.get(f"{DEAD_LETTERS}?reason=failed")

    after = replay(visitor, page, number=-1)

    assert text(after.find(class_="notice")) == "1 dead letter was delivered again."
    assert depths() == {"allocation.dead": 1, "allocation.commands": 1}


def test_all_letters_of_a_cause_are_replayed(visitor: Browser) -> None:
    """Those of another cause stay."""
    for reason in ("failed", "failed", "unknown field"):
        bury(reason)

    after = replay(visitor, visitor.get(DEAD_LETTERS))

    assert text(after.find(class_="notice")) == "2 dead letters were delivered again."
    assert depths() == {"allocation.dead": 1, "allocation.commands": 2}


def test_a_letter_that_somebody_else_replayed_is_said_to_be_gone(visitor: Browser) -> None:
    """It is not delivered twice."""
    bury("failed")
    page = visitor.get(DEAD_LETTERS)
    replay(visitor, page)

    after = replay(visitor, page)

    said = "No dead letter was delivered: it does not exist any more."
    assert text(after.find(class_="notice")) == said
    assert depths() == {"allocation.commands": 1}


def test_a_replay_needs_the_token_of_its_form(visitor: Browser) -> None:
    """No foreign site replays anything."""
    bury("failed")

    answer = visitor.client.post(f"{DEAD_LETTERS}/replay", data={"reason": "failed"})

    assert answer.status_code == 400
    assert depths() == {"allocation.dead": 1}


def test_without_dead_letters_the_page_says_so(visitor: Browser) -> None:
    """Of all of them, or of those that fit the filter."""
    nothing = text(visitor.get(DEAD_LETTERS).find(class_="empty"))
    none_of_it = text(visitor.get(f"{DEAD_LETTERS}?reason=odd").find(class_="empty"))

    assert nothing == "There are no dead letters: every message was read and decided."
    assert none_of_it == "There are no such dead letters. All dead letters"


def test_a_queue_that_is_none_is_an_error_that_names_those_there_are(visitor: Browser) -> None:
    """A link that somebody mistyped."""
    page = visitor.get(f"{DEAD_LETTERS}?queue=mine", 422)

    assert "mine is not a dead-letter queue; there are allocation.dead," in text(page.main)


def test_dead_letters_are_to_be_had_as_a_sheet(visitor: Browser) -> None:
    """Those that fit the filter."""
    bury("unknown field")
    letter_id = bury("failed")

    answer = visitor.client.get(f"{DEAD_LETTERS}.csv?reason=failed")

    header, row = csv.reader(StringIO(answer.text))
    assert header[:4] == ["id", "queue", "reason", "name"]
    assert row[:4] == [letter_id, "allocation.dead", "failed", "allocation.allocate"]


@pytest.mark.parametrize(
    ("settings", "flower", "management"),
    [
        ({}, "http://localhost:5555", None),
        ({"flower_link": "https://f.example"}, "https://f.example", None),
        (
            {"broker_url": "amqp://127.0.0.1:1//", "flower_port": "5556"},
            "http://localhost:5556",
            "http://localhost:15672",
        ),
        (
            {"broker_url": "amqp://127.0.0.1:1//", "broker_link": "https://b.example"},
            "http://localhost:5555",
            "https://b.example",
        ),
    ],
)
def test_links_lead_to_flower_and_the_broker_s_own_page(
    serve_pages: Callable[..., Browser],
    settings: dict[str, str],
    flower: str,
    management: str | None,
) -> None:
    """On the page's host unless the settings say where; the embedded broker has no page."""
    page = serve_pages(**settings).get("/operations")

    links = {text(each): each["href"] for each in page.find_all("a")}
    assert (links["Flower"], links.get("RabbitMQ’s management page")) == (flower, management)


def bury_large(number: int, **headers: object) -> None:
    """`number` dead letters with the largest bodies."""
    with bootstrap.build().broker() as connection:
        for each in range(number):
            connection.Producer().publish(
                b"x" * LARGEST_BODY,
                exchange="",
                routing_key=topology.DEAD,
                headers={"id": f"large-{each}", "x-reason": "unreadable"} | headers,
                content_type="application/json",
                content_encoding="utf-8",
            )


@pytest.mark.parametrize("path", [DEAD_LETTERS, f"{DEAD_LETTERS}?reason=unreadable"])
def test_a_page_does_not_hold_the_bodies_that_it_looked_at(
    path: str, visitor: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operations.MOST_BYTES == 16 * 1024 * 1024
    monkeypatch.setattr(operations, "MOST_BYTES", 4 * LARGEST_BODY)
    bury_large(60)
    visitor.get(path)  # what is loaded at first use

    tracemalloc.start()
    visitor.get(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 30 * LARGEST_BODY


def test_a_page_shows_the_beginning_of_a_large_body(visitor: Browser) -> None:
    bury_large(1)

    shown = text(visitor.get(f"{DEAD_LETTERS}?id=large-0").find("details"))

    assert shown.count("x" * operations.SHOWN_BYTES) == 1
    assert f"... and {LARGEST_BODY - operations.SHOWN_BYTES} bytes more" in shown


def test_a_letter_whose_body_was_cut_is_not_replayed(visitor: Browser) -> None:
    bury_large(1, **{"x-cut-bytes": 3})

    page = visitor.get(f"{DEAD_LETTERS}?id=large-0")
    [form] = page.select("article form")
    given = {each["name"]: each["value"] for each in form.find_all("input")}
    response = visitor.client.post(str(form["action"]), data=given)

    assert response.status_code == 409
    assert "large-0 can't be delivered again: 3 bytes of its body were cut off" in (
        BeautifulSoup(response.text, "html.parser").get_text()
    )
    assert depths() == {topology.DEAD: 1}
