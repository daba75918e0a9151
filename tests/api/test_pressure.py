"""While the service is overloaded, it refuses new commands; nothing piles up without end."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, func, select, update

from allocation.adapters.sql import database
from allocation.adapters.sql.tables import commands, outbox
from tests.api.conftest import Serve
from tests.servers.processes import Process
from tests.waiting import eventually

LINE = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
KEY = {"Idempotency-Key": "key-1"}


@pytest.fixture(params=["sqlite_url", "database_url"], ids=["sqlite", "postgresql"])
def each_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each database in turn."""
    made = database.engine(str(request.getfixturevalue(request.param)))
    yield made
    made.dispose()


def send(client: FlaskClient) -> int:
    """The status of one more command."""
    return client.post("/v1/allocations", json=LINE).status_code


def count(engine: Engine) -> int:
    """How many commands there are."""
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(commands)) or 0


def test_while_the_relay_is_stopped_commands_are_put_off_and_then_taken_again(
    serve: Serve, processes: Callable[..., Process], sqlite_url: str, tmp_path: Path
) -> None:
    """A real relay: 503 a while after it ends, 202 once it has caught up; a repeat is answered."""
    env = {"ALLOCATION_DATABASE_URL": sqlite_url, "ALLOCATION_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "allocation"]
    assert processes([*command, "topology"], name="topology", env=env).wait() == 0
    relay = processes([*command, "relay"], name="relay", env=env)
    relay.wait_for_log("ready: relaying")
    client = serve(database_url=sqlite_url, max_outbox_age="5")
    send(client)
    eventually(lambda: (client.get("/readyz").json or {})["unsent"] == 0, what="the row sent")

    relay.stop()
    first = client.post("/v1/allocations", json=LINE, headers=KEY)
    eventually(lambda: send(client) == 503, within=30, what="commands refused")
    repeat = client.post("/v1/allocations", json=LINE, headers=KEY)
    relay.start()
    eventually(lambda: send(client) == 202, within=30, what="commands taken again")

    assert (first.status_code, repeat.status_code) == (202, 202)
    assert repeat.headers["Location"] == first.headers["Location"]


def test_an_old_row_in_the_outbox_puts_commands_off(serve: Serve, each_engine: Engine) -> None:
    """503 with Retry-After; nothing is saved, reads go on, and it ends with the row's sending."""
    client = serve(database_url=each_engine.url.render_as_string(hide_password=False))
    client.post("/v1/allocations", json=LINE, headers=KEY)
    with each_engine.begin() as connection:
        a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)
        connection.execute(update(outbox).values(created_at=a_minute_ago))
    eventually(lambda: send(client) == 503, what="commands refused")

    before = count(each_engine)
    refused = client.post("/v1/allocations", json=LINE)
    unknown = client.post("/v1/allocations", json=LINE, headers={"Idempotency-Key": "key-2"})
    reused = client.post("/v1/allocations", json=LINE | {"qty": 9}, headers=KEY)
    read = client.get("/v1/products/LAMP")
    after = count(each_engine)
    with each_engine.begin() as connection:
        connection.execute(update(outbox).values(sent_at=datetime.now(UTC)))

    assert refused.json is not None
    assert (refused.status_code, refused.json["title"]) == (503, "overloaded")
    assert refused.headers["Retry-After"] == "5"
    assert "seconds behind, more than 30." in refused.json["detail"]
    assert (unknown.status_code, reused.status_code, read.status_code) == (503, 422, 404)
    assert after == before
    eventually(lambda: send(client) == 202, what="commands taken again")


def test_too_many_pending_commands_put_further_ones_off(serve: Serve, each_engine: Engine) -> None:
    """Until the workers have caught up."""
    url = each_engine.url.render_as_string(hide_password=False)
    client = serve(database_url=url, max_pending="3")

    eventually(lambda: send(client) == 503, what="commands refused")
    problem = client.post("/v1/allocations", json=LINE).json
    with each_engine.begin() as connection:
        decided = {"status": "succeeded", "outcome": {}, "decided_at": datetime.now(UTC)}
        connection.execute(update(commands).values(decided))

    assert problem is not None
    assert problem["detail"] == "More than 3 commands are pending."
    eventually(lambda: send(client) == 202, what="commands taken again")
