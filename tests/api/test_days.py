"""What a shop expects of days, parts, changes and returns, by HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import Worker

Json = dict[str, Any]
Send = Callable[..., Json]

TODAY = datetime.now(UTC).date()
SOON = (TODAY + timedelta(days=60)).isoformat()
LATER = (TODAY + timedelta(days=120)).isoformat()
LINE = "/v1/allocations/order-1/LAMP"


@pytest.fixture
def send(client: FlaskClient, worker: Worker) -> Send:
    """Sends a command and waits for its outcome, and for what follows from it.

    It returns the body, with the status code as `code`.
    """

    def ask(method: str, path: str, body: Json | None = None, **headers: str) -> Json:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        response = client.open(
            path, method=method, json=body, headers={"Prefer": "wait=10", **names}
        )
        worker.decide_all()
        assert response.json is not None
        return {"code": response.status_code, **response.json}

    return ask


@pytest.fixture
def batch(send: Send) -> Callable[..., Json]:
    def add(batchref: str, qty: int, eta: str | None = None, **more: object) -> Json:
        body = {"batchref": batchref, "sku": "LAMP", "qty": qty, "eta": eta, **more}
        return send("POST", "/v1/batches", body)

    return add


@pytest.fixture
def allocate(send: Send) -> Callable[..., Json]:
    def ask(orderid: str, qty: int, **more: object) -> Json:
        return send(
            "POST", "/v1/allocations", {"orderid": orderid, "sku": "LAMP", "qty": qty, **more}
        )

    return ask


Add = Callable[..., Json]


def read(client: FlaskClient, path: str) -> Json:
    response = client.get(path)
    assert response.status_code == 200
    assert response.json is not None
    return response.json


def standing(client: FlaskClient, orderid: str) -> tuple[str, str | None]:
    """Status and batch of the order's only part."""
    [line] = read(client, f"/v1/allocations/{orderid}")["lines"]
    return line["status"], line["batchref"]


def test_expired_stock_is_not_promised_and_does_not_count(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    batch("old", 10, best_before="2020-01-31")
    send("PUT", "/v1/products/LAMP/strategy", {"strategy": "first_to_expire"})

    assert allocate("order-1", 3)["status"] == "waiting"
    batch("good", 10, best_before=LATER)
    assert standing(client, "order-1") == ("allocated", "good")

    old, product = read(client, "/v1/batches/old"), read(client, "/v1/products/LAMP")
    assert (old["expired"], old["available"]) == (True, 0)
    assert (product["available"], product["unusable"]) == (7, {"batches": 1, "qty": 10})
    assert [each["batchref"] for each in product["batches"]] == ["good", "old"]


def test_a_batch_that_expires_before_it_arrives_is_refused(client: FlaskClient, batch: Add) -> None:
    refused = batch("odd", 10, eta=LATER, best_before=SOON)

    assert (refused["code"], refused["title"]) == (409, "expires before arrival")
    assert [error["field"] for error in refused["errors"]] == ["best_before"]
    assert client.get("/v1/batches/odd").status_code == 404


def test_a_best_before_day_is_corrected(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    """The line that waited is served; without a day the stock keeps."""
    batch("old", 10, best_before="2020-01-31")
    allocate("order-1", 3)

    corrected = send("PATCH", "/v1/batches/old", {"best_before": LATER})

    assert corrected == {
        "code": 200,
        "batchref": "old",
        "best_before": LATER,
        "status": "changed",
    }
    assert standing(client, "order-1") == ("allocated", "old")
    assert send("PATCH", "/v1/batches/old", {"best_before": None})["best_before"] is None


def test_an_overdue_shipment_serves_after_one_that_is_expected(
    client: FlaskClient, batch: Add, allocate: Add
) -> None:
    """It is told apart, and listed last."""
    batch("overdue", 10, eta=(TODAY - timedelta(days=30)).isoformat())
    batch("expected", 10, eta=SOON)

    assert allocate("order-1", 4)["batchref"] == "expected"

    product = read(client, "/v1/products/LAMP")
    assert (product["available"], product["overdue"]) == (16, {"batches": 1, "qty": 10})
    assert [each["batchref"] for each in product["batches"]] == ["expected", "overdue"]
    assert read(client, "/v1/batches/overdue")["overdue"] is True


def test_some_pieces_of_a_line_leave_and_the_rest_stays_promised(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    batch("shelf", 10)
    allocate("order-1", 5)

    first = send("POST", f"{LINE}/dispatches", {"qty": 2})

    assert first == {
        "code": 200,
        "orderid": "order-1",
        "sku": "LAMP",
        "status": "dispatched",
        "batchref": "shelf",
        "qty": 2,
        "left": 3,
    }
    shown, shelf = read(client, LINE), read(client, "/v1/batches/shelf")
    assert (shown["qty"], shown["status"], shown["dispatched_qty"]) == (5, "allocated", 2)
    assert (shelf["qty"], shelf["allocated"], shelf["available"]) == (8, 3, 5)

    rest = send("POST", f"{LINE}/dispatches")
    assert (rest["status"], rest["batchref"], "left" in rest) == ("dispatched", "shelf", False)
    assert read(client, LINE)["status"] == "dispatched"


def test_goods_on_a_ship_cannot_leave(send: Send, batch: Add, allocate: Add) -> None:
    batch("ship", 10, eta=SOON)
    allocate("order-1", 3)

    refused = send("POST", f"{LINE}/dispatches")

    assert (refused["code"], refused["title"], refused["batchref"]) == (409, "not arrived", "ship")


def test_of_a_line_in_parts_leaves_what_is_there_by_batch(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    """The outcome names each batch; the part on the ship stays promised."""
    for batchref, eta in (("shelf-a", None), ("shelf-b", None), ("ship", SOON)):
        batch(batchref, 2, eta)
    allocate("order-1", 6, split=True)

    sent = send("POST", f"{LINE}/dispatches")

    assert [(part["batchref"], part["qty"]) for part in sent["parts"]] == [
        ("shelf-a", 2),
        ("shelf-b", 2),
    ]
    assert (sent["qty"], sent["left"]) == (4, 2)
    shown = read(client, LINE)
    assert (shown["status"], shown["dispatched_qty"]) == ("in parts", 4)
    assert [(part["batchref"], part["status"]) for part in shown["parts"]] == [
        ("ship", "allocated"),
        ("shelf-a", "dispatched"),
        ("shelf-b", "dispatched"),
    ]


def test_a_change_of_quantity_keeps_the_line_s_place(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    batch("shelf", 1)
    allocate("order-1", 5)
    allocate("order-2", 5)

    changed = send("PATCH", LINE, {"qty": 7})
    batch("new", 9)

    assert (changed["code"], changed["status"], changed["qty"]) == (200, "waiting", 7)
    assert standing(client, "order-1") == ("allocated", "new")
    assert standing(client, "order-2") == ("waiting", None)


def test_more_than_there_is_leaves_the_line_as_it_is(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    """Fewer frees stock at once."""
    batch("shelf", 6)
    allocate("order-1", 5)

    refused = send("PATCH", LINE, {"qty": 7})
    fewer = send("PATCH", LINE, {"qty": 2})

    assert (refused["code"], refused["title"], refused["known_qty"]) == (409, "not enough stock", 5)
    assert (fewer["code"], fewer["status"], fewer["qty"]) == (200, "allocated", 2)
    assert read(client, "/v1/batches/shelf")["available"] == 4


def test_the_older_line_gets_the_shelf_stock_that_arrives(
    client: FlaskClient, batch: Add, allocate: Add
) -> None:
    """Though it was promised a ship before."""
    batch("ship", 10, eta=SOON)
    allocate("order-1", 5)
    batch("shelf", 5)

    assert allocate("order-2", 5)["batchref"] == "ship"
    assert standing(client, "order-1") == ("allocated", "shelf")


def test_in_order_no_small_line_passes_a_large_one(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    batch("shelf", 5)
    rules = {"strategy": "earliest_first", "waiting": "in_order", "improve": False}
    chosen = send("PUT", "/v1/products/LAMP/strategy", rules)
    allocate("order-1", 9)

    assert chosen == {"code": 200, "sku": "LAMP", **rules, "status": "changed"}
    assert allocate("order-2", 2)["status"] == "waiting"
    explained = read(client, "/v1/allocations/order-2/LAMP/explanation")
    assert [each["verdict"] for each in explained["decisions"][-1]["considered"]] == [
        "passed over: an older or more urgent line waits for it"
    ]
    send("POST", "/v1/batches/shelf/receipts", {"qty": 6})
    assert standing(client, "order-1") == ("allocated", "shelf")
    assert standing(client, "order-2") == ("allocated", "shelf")
    product = read(client, "/v1/products/LAMP")
    assert (product["waiting_rule"], product["improve"]) == ("in_order", False)


def test_the_higher_priority_is_served_first(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    """As ordered, or as changed later."""
    batch("shelf", 1)
    allocate("order-1", 5)
    allocate("order-2", 5, priority=3)
    allocate("order-3", 5)

    changed = send("PATCH", "/v1/allocations/order-3/LAMP", {"priority": 9})
    batch("new", 10)

    assert changed == {
        "code": 200,
        "orderid": "order-3",
        "sku": "LAMP",
        "priority": 9,
        "status": "changed",
    }
    assert [standing(client, f"order-{number}")[0] for number in (1, 2, 3)] == [
        "waiting",
        "allocated",
        "allocated",
    ]


def test_a_line_waits_for_the_day_and_the_freshness_that_it_wants(
    client: FlaskClient, batch: Add, allocate: Add
) -> None:
    """Early stock stays free, and stock that is not fresh enough is no candidate."""
    batch("shelf", 10, best_before=LATER)
    batch("ship", 10, eta=SOON)

    late = allocate("order-1", 2, not_before=LATER)
    fresh = allocate("order-2", 2, fresh_days=150)

    assert (late["batchref"], fresh["batchref"]) == ("ship", "ship")
    shown = read(client, LINE)
    assert (shown["not_before"], shown["fresh_days"], shown["priority"]) == (LATER, 0, 0)


def test_receipts_are_relative_and_a_count_over_a_dispatch_is_refused(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    batch("shelf", 10)
    allocate("order-1", 4)
    seen = client.get("/v1/batches/shelf").headers["ETag"]
    send("POST", f"{LINE}/dispatches")

    received = send("POST", "/v1/batches/shelf/receipts", {"qty": 5})
    counted = send("PATCH", "/v1/batches/shelf", {"qty": 10}, If_Match=seen)

    assert received == {"code": 200, "batchref": "shelf", "qty": 11, "status": "received"}
    assert (counted["code"], counted["title"]) == (412, "changed meanwhile")
    assert [error["field"] for error in counted["errors"]] == ["If-Match"]
    again = client.get("/v1/batches/shelf").headers["ETag"]
    assert again == f'"{counted["version"]}"'
    assert send("PATCH", "/v1/batches/shelf", {"qty": 10}, If_Match=again)["status"] == "changed"
    assert read(client, "/v1/batches/shelf")["qty"] == 10


def test_shipped_goods_come_back(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    """To their batch, to a new one, or to none; never more than left."""
    batch("shelf", 5)
    allocate("order-1", 5)
    send("POST", f"{LINE}/dispatches")

    back = send("POST", f"{LINE}/returns", {"qty": 2, "batchref": "shelf"})
    new = send("POST", f"{LINE}/returns", {"qty": 1, "batchref": "back-1", "reason": "unwanted"})
    broken = {"qty": 1, "batchref": "shelf", "usable": False}
    lost = send("POST", f"{LINE}/returns", broken)
    refused = send("POST", f"{LINE}/returns", {"qty": 2, "batchref": "shelf"})

    assert back == {
        "code": 200,
        "orderid": "order-1",
        "sku": "LAMP",
        "qty": 2,
        "batchref": "shelf",
        "status": "returned",
    }
    assert (new["batchref"], new["reason"], lost["batchref"]) == ("back-1", "unwanted", None)
    assert (refused["code"], refused["title"], refused["known_qty"]) == (
        409,
        "quantity too large",
        1,
    )
    assert read(client, "/v1/batches/shelf")["available"] == 2
    assert read(client, "/v1/batches/back-1")["available"] == 1
    assert read(client, LINE)["returned"] == 4


def test_an_order_is_cancelled_as_a_whole_and_what_left_stays(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    batch("shelf", 10)
    send("POST", "/v1/batches", {"batchref": "sofas", "sku": "SOFA", "qty": 1})
    allocate("order-1", 5)
    send("POST", "/v1/allocations", {"orderid": "order-1", "sku": "SOFA", "qty": 1})
    send("POST", f"{LINE}/dispatches", {"qty": 2})

    cancelled = send("DELETE", "/v1/orders/order-1")

    assert cancelled == {
        "code": 200,
        "orderid": "order-1",
        "status": "cancelled",
        "lines": 2,
        "dispatched": 1,
    }
    assert [
        (line["sku"], line["qty"], line["status"])
        for line in read(client, "/v1/allocations/order-1")["lines"]
    ] == [("LAMP", 2, "dispatched")]
    assert send("DELETE", "/v1/orders/order-1")["title"] == "dispatched"
    assert send("DELETE", "/v1/orders/order-9")["title"] == "unknown order"


def test_a_blocked_batch_serves_no_line_until_it_is_unblocked(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    batch("shelf", 10)
    allocate("order-1", 3)

    blocked = send("PUT", "/v1/batches/shelf/block", {"reason": "recall"})

    assert blocked == {"code": 200, "batchref": "shelf", "reason": "recall", "status": "blocked"}
    assert standing(client, "order-1") == ("waiting", None)
    shelf, product = read(client, "/v1/batches/shelf"), read(client, "/v1/products/LAMP")
    assert (shelf["blocked"], shelf["qty"], shelf["available"]) == ("recall", 10, 0)
    assert (product["available"], product["open_batches"], product["unusable"]) == (
        0,
        0,
        {"batches": 1, "qty": 10},
    )

    unblocked = send("DELETE", "/v1/batches/shelf/block")
    assert unblocked == {"code": 200, "batchref": "shelf", "status": "unblocked"}
    assert standing(client, "order-1") == ("allocated", "shelf")


def test_a_pre_order_waits_for_the_first_batch_of_a_product(
    client: FlaskClient, send: Send, batch: Add, allocate: Add
) -> None:
    """The product is listed before, and stays as it was made."""
    created = send("POST", "/v1/products", {"sku": "LAMP", "strategy": "fewest_open"})
    again = send("POST", "/v1/products", {"sku": "LAMP", "strategy": "fewest_open"})
    other = send("POST", "/v1/products", {"sku": "LAMP"})

    assert created == {"code": 201, "sku": "LAMP", "strategy": "fewest_open", "status": "created"}
    assert (again["code"], again["status"]) == (200, "unchanged")
    assert (other["code"], other["title"]) == (409, "product known")
    assert allocate("order-1", 3)["status"] == "waiting"
    product = read(client, "/v1/products/LAMP")
    assert (product["strategy"], product["available"], product["batches"]) == ("fewest_open", 0, [])
    batch("first", 3)
    assert standing(client, "order-1") == ("allocated", "first")


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/v1/batches/shelf", "PATCH", {"qty": 9}),
        ("/v1/batches/shelf", "PATCH", {"best_before": LATER}),
        ("/v1/batches/shelf/eta", "PUT", {"eta": SOON}),
        ("/v1/batches/shelf/block", "PUT", {"reason": "recall"}),
        (LINE, "PATCH", {"qty": 2}),
        (LINE, "PATCH", {"priority": 4}),
        (LINE, "DELETE", None),
        ("/v1/products/LAMP/strategy", "PUT", {"strategy": "fewest_open"}),
    ],
)
def test_a_change_takes_effect_for_the_version_that_was_read_and_no_other(
    path: str,
    method: str,
    body: Json | None,
    client: FlaskClient,
    send: Send,
    batch: Add,
    allocate: Add,
) -> None:
    batch("shelf", 10)
    allocate("order-1", 3)
    resource = path.removesuffix("/eta").removesuffix("/block").removesuffix("/strategy")
    seen = client.get(resource).headers["ETag"]

    stale = send(method, path, body, If_Match='"another"')
    same = client.get(resource).headers["ETag"]
    changed = send(method, path, body, If_Match=seen)

    assert (stale["code"], stale["title"], f'"{stale["version"]}"') == (
        412,
        "changed meanwhile",
        seen,
    )
    assert same == seen
    assert changed["code"] == 200
    assert "expected_version" not in changed
    if method != "DELETE":
        assert client.get(resource).headers["ETag"] != seen


def test_of_two_who_read_the_same_one_is_refused(
    client: FlaskClient, send: Send, batch: Add
) -> None:
    batch("shelf", 10)
    seen = client.get("/v1/batches/shelf").headers["ETag"]

    codes = [
        send("PATCH", "/v1/batches/shelf", {"qty": qty}, If_Match=seen)["code"] for qty in (8, 7)
    ]

    assert codes == [200, 412]
    assert read(client, "/v1/batches/shelf")["qty"] == 8


def test_who_does_not_wait_finds_the_refusal_in_the_command_s_status(
    client: FlaskClient, idle_worker: Worker
) -> None:
    """The precondition is checked when the command is decided."""
    client.post("/v1/batches", json={"batchref": "shelf", "sku": "LAMP", "qty": 10})
    changed = client.patch("/v1/batches/shelf", json={"qty": 3}, headers={"If-Match": '"old"'})
    assert changed.status_code == 202

    idle_worker.decide_all()

    command = read(client, changed.headers["Location"])
    assert (command["status"], command["outcome"]["reason"]) == ("rejected", "changed meanwhile")


@pytest.mark.parametrize(
    ("method", "path", "tag"),
    [
        ("PATCH", "/v1/batches/shelf", 'W/"a"'),
        ("PATCH", "/v1/batches/shelf", "a"),
        ("PATCH", "/v1/batches/shelf", '"a", "b"'),
        ("PATCH", "/v1/batches/shelf", '""'),
        ("POST", "/v1/batches/shelf/receipts", '"a"'),
        ("DELETE", "/v1/orders/order-1", '"a"'),
    ],
)
def test_a_tag_that_says_no_version_is_refused_by_name(
    method: str, path: str, tag: str, client: FlaskClient
) -> None:
    """Also where there is no version to expect: ignored, it would promise too much."""
    body = None if method == "DELETE" else {"qty": 1}
    response = client.open(path, method=method, json=body, headers={"If-Match": tag})

    assert response.status_code == 400
    assert response.json is not None
    assert response.json["title"] == "malformed precondition"
    assert [error["field"] for error in response.json["errors"]] == ["If-Match"]


def test_any_version_is_good_for_a_star(send: Send, batch: Add) -> None:
    batch("shelf", 10)

    assert send("PATCH", "/v1/batches/shelf", {"qty": 8}, If_Match="*")["code"] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        ("PATCH", LINE, {}, ["qty", "priority"]),
        ("PATCH", LINE, {"qty": 1, "priority": 1}, ["priority"]),
        ("PATCH", LINE, {"qty": 0}, ["qty"]),
        ("PATCH", LINE, {"priority": 10}, ["priority"]),
        ("PATCH", LINE, {"priority": 1, "sku": "SOFA"}, ["sku"]),
        ("PATCH", LINE, {"qty": 1, "expected_version": "a"}, ["expected_version"]),
        ("PATCH", "/v1/batches/shelf", {}, ["qty", "best_before"]),
        ("PATCH", "/v1/batches/shelf", {"best_before": "soon"}, ["best_before"]),
        ("PATCH", "/v1/batches/shelf", [], ["body"]),
        ("POST", f"{LINE}/dispatches", {"qty": 0}, ["qty"]),
        ("POST", f"{LINE}/returns", {"qty": 1}, ["batchref"]),
        ("POST", f"{LINE}/returns", {"qty": 1, "batchref": " b"}, ["batchref"]),
        ("POST", "/v1/batches/shelf/receipts", {"qty": 0}, ["qty"]),
        ("PUT", "/v1/batches/shelf/block", {"reason": ""}, ["reason"]),
        ("POST", "/v1/products", {"sku": "LAMP", "waiting": "never"}, ["waiting"]),
        ("POST", "/v1/products", {"sku": "LAMP "}, ["sku"]),
        (
            "POST",
            "/v1/allocations",
            {"orderid": "o", "sku": "s", "qty": 1, "priority": 10},
            ["priority"],
        ),
        (
            "POST",
            "/v1/allocations",
            {"orderid": "o", "sku": "s", "qty": 1, "not_before": "x"},
            ["not_before"],
        ),
    ],
)
def test_a_wrong_field_is_named(
    method: str, path: str, body: object, fields: list[str], client: FlaskClient
) -> None:
    response = client.open(path, method=method, json=body)

    assert response.status_code == 422
    assert response.json is not None
    assert [error["field"] for error in response.json["errors"]] == fields


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", LINE, {"qty": 2}),
        ("PATCH", LINE, {"priority": 2}),
        ("POST", f"{LINE}/dispatches", {"qty": 2}),
        ("POST", "/v1/batches/shelf/receipts", {"qty": 2}),
        ("PUT", "/v1/batches/shelf/block", {"reason": "recall"}),
        ("DELETE", "/v1/orders/order-1", None),
        ("POST", "/v1/products", {"sku": "SOFA"}),
    ],
)
def test_a_request_with_the_same_key_takes_effect_once(
    method: str,
    path: str,
    body: Json | None,
    client: FlaskClient,
    send: Send,
    batch: Add,
    allocate: Add,
) -> None:
    """The repeat has the same answer, whatever changed since."""
    batch("shelf", 10)
    allocate("order-1", 5)

    first = send(method, path, body, Idempotency_Key="key-1")
    version = read(client, "/v1/products/LAMP")["version"]
    again = send(method, path, body, Idempotency_Key="key-1")

    assert first["code"] in (200, 201)
    assert again == first
    assert read(client, "/v1/products/LAMP")["version"] == version


def test_a_key_that_comes_with_another_version_is_another_request(send: Send, batch: Add) -> None:
    batch("shelf", 10)
    send("PATCH", "/v1/batches/shelf", {"qty": 8}, Idempotency_Key="k", If_Match='"a"')

    other = send("PATCH", "/v1/batches/shelf", {"qty": 8}, Idempotency_Key="k", If_Match='"b"')

    assert (other["code"], other["title"]) == (422, "idempotency key reused")


def test_many_lines_may_say_what_they_wish(client: FlaskClient, send: Send, batch: Add) -> None:
    batch("shelf", 10)
    wishes = {"priority": 2, "not_before": SOON, "fresh_days": 3}
    lines = [{"orderid": "order-1", "sku": "LAMP", "qty": 1, **wishes}]

    answered = send("POST", "/v1/allocations", {"lines": lines})
    order = {"orderid": "order-2", "lines": [{"sku": "LAMP", "qty": 1, **wishes}]}
    decided = send("POST", "/v1/orders", order)

    assert answered["lines"][0]["status"] == decided["lines"][0]["status"] == "allocated"
    for orderid in ("order-1", "order-2"):
        shown = read(client, f"/v1/allocations/{orderid}/LAMP")
        assert {name: shown[name] for name in wishes} == wishes


def test_a_line_that_nobody_ordered_is_not_found(client: FlaskClient) -> None:
    assert client.get(LINE).status_code == 404
