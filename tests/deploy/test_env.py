"""`make env`: the file of secrets that compose reads."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers.processes import ROOT, clean_environment


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What `make env` needs of the project."""
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", ".env.example", "tools/env.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make_env(project: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "env"],
        cwd=project,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def secrets_in(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


def test_each_secret_gets_a_random_value_that_its_owner_alone_can_read(project: Path) -> None:
    made = make_env(project)

    assert made.returncode == 0, made.stderr
    written, example = (project / ".env").read_text(), (ROOT / ".env.example").read_text()
    values = secrets_in(written)
    assert values.keys() == secrets_in(example).keys()
    assert all(re.fullmatch(r"[0-9a-f]{32}", value) for value in values.values())
    assert len(set(values.values())) == len(values)
    assert re.sub(r"=[0-9a-f]{32}$", "=", written, flags=re.MULTILINE) == example
    assert (project / ".env").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_stays_as_it_is(project: Path) -> None:
    (project / ".env").write_text("mine")

    again = make_env(project)

    assert again.returncode != 0
    assert (
        ".env exists, and is left as it is: its secrets may be in use; rename it to" in again.stderr
    )
    assert (project / ".env").read_text() == "mine"
