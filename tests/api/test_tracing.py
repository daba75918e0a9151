"""The trace context of a request goes with its commands."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, select

from allocation.adapters.sql.tables import outbox

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHAIR = {"batchref": "batch-1", "sku": "RED-CHAIR", "qty": 10}
ORDER = {"orderid": "o1", "sku": "RED-CHAIR", "qty": 1}


def traceparents(engine: Engine) -> list[str | None]:
    """Of what the relay is to send, in its order."""
    with engine.connect() as connection:
        query = select(outbox.c.traceparent).order_by(outbox.c.position)
        return list(connection.scalars(query))


@pytest.mark.parametrize(
    ("headers", "kept"), [({"traceparent": GIVEN}, GIVEN), ({"traceparent": "x"}, None), ({}, None)]
)
def test_a_command_is_sent_on_with_the_traceparent_of_its_request(
    client: FlaskClient, engine: Engine, headers: dict[str, str], kept: str | None
) -> None:
    """A malformed one is ignored."""
    response = client.post("/v1/batches", json=CHAIR, headers=headers)

    assert (response.status_code, traceparents(engine)) == (202, [kept])


def test_each_line_of_a_request_is_sent_on_with_its_traceparent(
    client: FlaskClient, engine: Engine
) -> None:
    """All of them belong to one trace."""
    lines = {"lines": [ORDER, ORDER | {"orderid": "o2"}]}

    client.post("/v1/allocations", json=lines, headers={"traceparent": GIVEN})

    assert traceparents(engine) == [GIVEN, GIVEN]


def test_a_repeat_of_a_request_changes_nothing_in_whatever_trace(
    client: FlaskClient, engine: Engine
) -> None:
    """The trace is no part of what an Idempotency-Key stands for."""
    key = {"Idempotency-Key": "k"}
    first = client.post("/v1/batches", json=CHAIR, headers=key | {"traceparent": GIVEN})

    again = client.post("/v1/batches", json=CHAIR, headers=key)

    assert (again.status_code, again.json) == (202, first.json)
    assert traceparents(engine) == [GIVEN]
