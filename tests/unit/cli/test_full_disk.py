"""A full disk ends no process; /dev/full fails as such a disk does."""

import subprocess
import sys
from pathlib import Path

from allocation.entrypoints.cli.supervisor import Output
from allocation.messaging.telemetry import heartbeat

FULL = Path("/dev/full")


def test_the_supervisor_goes_on_while_its_output_can_not_be_written() -> None:
    closed: list[bool] = []

    with FULL.open("w") as full:
        output = Output(full.fileno(), on_close=lambda: closed.append(True))
        output.say("a line")
        output.close()

    assert closed == []


def test_a_process_goes_on_while_its_log_can_not_be_written() -> None:
    program = (
        "import structlog; from allocation.messaging.telemetry import logs;"
        " logs.configure('console'); structlog.get_logger().info('a line'); print('went on')"
    )

    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False
        )

    assert ended.stdout == b"went on\n"


def test_a_sign_of_life_that_can_not_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "alive").write_text("no folder: nothing can be made in it")

    heartbeat.beat(tmp_path, "relay")

    assert (tmp_path / "alive").is_file()
