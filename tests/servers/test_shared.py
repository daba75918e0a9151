"""The folder and the servers that the processes of a test run share."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.servers.databases import Databases
from tests.servers.processes import ROOT
from tests.servers.shared import Run, run
from tests.waiting import eventually

KILLED = """
import os, signal
from tests.servers.shared import run

with run() as mine:
    print(mine.folder, mine.postgres().url, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_who_asks_for_what_is_being_made_waits_for_it(tmp_path: Path) -> None:
    answers: list[str] = []
    second = threading.Thread(
        target=lambda: answers.append(Run(tmp_path).once("thing", lambda: "made twice"))
    )

    def make() -> str:
        second.start()
        second.join(0.3)
        return "made once"

    first = Run(tmp_path).once("thing", make)

    second.join(10)
    assert (first, answers) == ("made once", ["made once"])


def test_what_could_not_be_made_is_made_by_the_next_that_asks(tmp_path: Path) -> None:
    def fail() -> str:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        Run(tmp_path).once("thing", fail)

    assert Run(tmp_path).once("thing", lambda: "made") == "made"


def test_the_servers_of_a_run_end_with_it() -> None:
    with run() as mine:
        server = mine.postgres()
        again = Run(mine.folder).postgres()
        assert (again.url, again.answers()) == (server.url, True)

    assert not server.answers()
    assert not mine.folder.exists()


def test_the_servers_of_a_run_end_though_its_process_is_killed() -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert killed.returncode == -9, killed.stderr
    folder, url = killed.stdout.split()
    server = Databases(url)
    eventually(lambda: not server.answers(), within=20, what="the end of the server")
    shutil.rmtree(folder)
