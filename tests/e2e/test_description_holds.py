"""The running service does what /openapi.json says, whatever a caller makes of the description."""

import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import House

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.long


@pytest.mark.timeout(300)
def test_the_service_keeps_to_its_description(house: House, tmp_path: Path) -> None:
    """Examples, edges and nonsense, and commands followed by their links, with every check on.

    The same requests in each run: it is told to draw nothing by chance.
    """
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", f"http://127.0.0.1:{house.port}/openapi.json"),
        *("--exclude-path", "/stream"),  # it never ends; tests/api/test_stream.py listens to it
        *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", "10", "--generation-deterministic", "--no-color"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.e2e.fresh_keys", "PYTHONPATH": str(ROOT)}

    # In a folder of its own: what it finds it remembers there, and tries first the next time.
    run = house.start(command, name="schemathesis", env=house.environment | hooks, cwd=tmp_path)
    status = run.wait(240)

    told = run.logs()
    assert status == 0, told[-6000:]
    for name, process in house.processes.items():
        assert process.returncode is None, name
