import subprocess
import sys

import pytest

from tests.servers.processes import ROOT, clean_environment

HEAVY = "sqlalchemy kombu amqp pydantic_settings alembic structlog prometheus_client jsonschema_rs"
"""Typer itself has pydantic, to read values."""


@pytest.mark.parametrize(
    ("worker", "commands"),
    [("warehouse", ["", "dispatch", "picks", "prune"]), ("notification", ["", "prune"])],
)
def test_help_is_quick_and_shows_no_type_for_a_flag(worker: str, commands: list[str]) -> None:
    program = (
        "import sys; from typer.testing import CliRunner\n"
        f"from workers.{worker}.__main__ import app\n"
        "for command in sys.stdin.read().split(','):\n"
        "    for option in ('-h', '--help'):\n"
        "        helped = CliRunner().invoke(app, [*command.split(), option])\n"
        "        print(helped.exit_code, '<bool>' in helped.output)\n"
        f"print([name for name in '{HEAVY}'.split() if name in sys.modules])"
    )

    helped = subprocess.run(
        [sys.executable, "-c", program],
        input=",".join(commands),
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert helped.stdout.splitlines() == ["0 False"] * 2 * len(commands) + ["[]"]
