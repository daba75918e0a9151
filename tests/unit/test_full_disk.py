"""A full disk ends no process: /dev/full takes nothing, as such a disk does."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from honcho.printer import Message

from allocation import health
from allocation.settings import Settings
from allocation.supervisor import PatientPrinter

FULL = Path("/dev/full")


def test_lines_of_processes_are_dropped_while_the_log_can_not_be_written() -> None:
    line = Message("line", b"a line", datetime.now(UTC), "api", None)

    file = FULL.open("w")
    PatientPrinter(file).write(line)

    with pytest.raises(OSError, match="No space left"):
        file.close()


def test_a_subscriber_goes_on_while_its_log_can_not_be_written() -> None:
    program = (
        "import structlog; from workers import logs; from workers.settings import Settings;"
        " logs.configure(Settings()); structlog.get_logger().info('a line'); print('went on')"
    )

    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False
        )

    assert ended.stdout == b"went on\n"


def test_a_sign_of_life_that_can_not_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "alive").write_text("no folder: nothing can be made in it")

    health.beat(Settings(state_dir=tmp_path), "relay")

    assert (tmp_path / "alive").is_file()
