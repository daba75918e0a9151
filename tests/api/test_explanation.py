"""Why an order line stands where it does: every choice, and every move with its cause."""

from typing import Any

from flask.testing import FlaskClient

from tests.api.conftest import Worker
from tests.waiting import eventually

WAIT = {"Prefer": "wait=5"}


def batch(client: FlaskClient, batchref: str, qty: int, eta: str | None = None) -> None:
    body = {"batchref": batchref, "sku": "LAMP", "qty": qty, "eta": eta}
    assert client.post("/v1/batches", json=body, headers=WAIT).status_code == 201


def line(client: FlaskClient, orderid: str, qty: int) -> None:
    body = {"orderid": orderid, "sku": "LAMP", "qty": qty}
    assert client.post("/v1/allocations", json=body, headers=WAIT).status_code in (200, 201)


def explained(client: FlaskClient, orderid: str) -> Any:
    response = client.get(f"/v1/allocations/{orderid}/LAMP/explanation")
    assert response.status_code == 200
    return response.json


def test_a_choice_is_explained_by_what_there_was_to_choose_from(
    client: FlaskClient, worker: Worker
) -> None:
    """The batches in the order of preference, up to the one that serves."""
    batch(client, "later", 10, "2030-02-01")
    batch(client, "sooner", 10, "2030-01-01")
    batch(client, "shelf", 2)

    line(client, "order-1", 5)

    told = explained(client, "order-1")
    [decision] = told["decisions"]
    assert (told["status"], decision["event"]) == ("allocated", "allocation.allocated.v1")
    assert decision["candidates"] == 3
    assert decision["considered"] == [
        {"batchref": "shelf", "eta": None, "free": 2, "verdict": "passed over: 2 free, 5 wanted"},
        {
            "batchref": "sooner",
            "eta": "2030-01-01",
            "free": 10,
            "verdict": "chosen: the first in the order of preference that fits",
        },
    ]


def test_a_line_that_waits_is_explained_by_what_does_not_fit(
    client: FlaskClient, worker: Worker
) -> None:
    """Every batch that has something, and too little."""
    batch(client, "shelf", 2)

    line(client, "order-1", 5)

    told = explained(client, "order-1")
    assert told["status"] == "waiting"
    assert [each["verdict"] for each in told["decisions"][0]["considered"]] == [
        "passed over: 2 free, 5 wanted"
    ]


def test_one_question_answers_why_an_order_moved(client: FlaskClient, worker: Worker) -> None:
    """The damage, its reason, and where the line went by the follow-up of it."""
    batch(client, "shelf", 5)
    batch(client, "shipment", 5, "2030-01-01")
    line(client, "order-1", 5)
    gone = {"qty": 1, "reason": "water damage"}

    written = client.post("/v1/batches/shelf/write-offs", json=gone, headers=WAIT)
    eventually(lambda: len(explained(client, "order-1")["decisions"]) == 3, what="the move")

    _, left, moved = explained(client, "order-1")["decisions"]
    command_id = written.headers["Location"].rpartition("/")[2]
    root = {
        "id": command_id,
        "command": "allocation.write_off",
        "body": {"batchref": "shelf", **gone},
    }
    assert (left["event"], left["batchref"], left["began_with"]) == (
        "allocation.deallocated.v1",
        "shelf",
        root,
    )
    assert (moved["event"], moved["batchref"], moved["began_with"]) == (
        "allocation.allocated.v1",
        "shipment",
        root,
    )
    assert (left["cause"]["id"], left["cause"]["command"]) == (command_id, "allocation.write_off")
    assert moved["cause"]["command"] == "allocation.allocate_waiting"


def test_a_line_that_was_given_up_keeps_its_story(client: FlaskClient, worker: Worker) -> None:
    """As long as its events are kept."""
    batch(client, "shelf", 5)
    line(client, "order-1", 5)

    client.delete("/v1/allocations/order-1/LAMP", headers=WAIT)

    told = explained(client, "order-1")
    assert told["status"] == "given up"
    assert [each["event"].split(".")[1] for each in told["decisions"]] == [
        "allocated",
        "deallocated",
    ]


def test_an_unknown_line_has_no_explanation(client: FlaskClient) -> None:
    """404."""
    assert client.get("/v1/allocations/order-1/LAMP/explanation").status_code == 404


def test_of_many_candidates_the_first_ones_and_the_chosen_are_kept(
    client: FlaskClient, worker: Worker
) -> None:
    """However many there are, the explanation stays small."""
    for number in range(15):
        batch(client, f"b{number:02}", 1)
    batch(client, "c", 5)

    line(client, "order-1", 5)

    [decision] = explained(client, "order-1")["decisions"]
    assert decision["candidates"] == 16
    named = [each["batchref"] for each in decision["considered"]]
    assert named == [*(f"b{number:02}" for number in range(9)), "c"]
