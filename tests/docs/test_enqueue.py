"""docs/enqueue.md: its lines are run as another service would, and each takes effect."""

import re
from collections.abc import Callable
from pathlib import Path

from kombu import Connection

from tests.e2e.conftest import House, house
from tests.servers.processes import Process
from tests.waiting import eventually

__all__ = ["house"]

PAGE = (Path(__file__).parents[2] / "docs" / "enqueue.md").read_text()
BLOCKS = re.findall(r"^<!-- the tests run these lines -->\n```python\n(.*?)^```", PAGE, re.M | re.S)


def test_the_lines_of_the_page_do_what_it_says(
    house: House, broker_url: str, processes: Callable[..., Process], tmp_path: Path
) -> None:
    """Celery, plain AMQP, and an event of another system."""
    batch = {"batchref": "shipment-77", "sku": "RED-CHAIR", "qty": 100}
    assert house.do("POST", "/v1/batches", batch)[0] == 201
    broker = Connection(broker_url)
    private = (
        f'"{broker.hostname}:{broker.port}", "{broker.userid}", "{broker.password}",'
        f' virtual_host="{broker.virtual_host}"'
    )

    said = []
    for number, block in enumerate(BLOCKS):
        program = tmp_path / f"block-{number}.py"
        lines = block.replace('"127.0.0.1:5672", "guest", "guest"', private)
        program.write_text(lines.replace("amqp://guest:guest@127.0.0.1:5672//", broker_url))
        sender = processes(["python", str(program)], name=program.stem, cwd=tmp_path)
        assert sender.wait(30) == 0, sender.logs()
        said += sender.logs().split()

    def effects() -> list[object]:
        outcomes = [house.ask("GET", f"/v1/commands/{id}")[1].get("status") for id in said]
        lines = [
            house.ask("GET", f"/v1/allocations/{order}")[0] for order in ("order-3", "order-4")
        ]
        return [*outcomes, *lines, house.ask("GET", "/v1/batches/shipment-77")[1]["qty"]]

    expected = ["succeeded", "succeeded", 200, 200, 90]
    eventually(lambda: effects() == expected, what="the effects of all three")
