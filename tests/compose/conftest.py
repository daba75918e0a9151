"""The whole compose project on a real engine: run by `make compose-test`, not by `make test`."""

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually
from tools import env

ROOT = Path(__file__).parents[2]
LASTING = (
    "api",
    "allocation-worker",
    "relay",
    "inbound",
    "warehouse",
    "notification",
    "flower",
    "postgres",
    "rabbitmq",
    "mailpit",
)


class Stack:
    """One compose project under a name of its own, with secrets made up for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        # As `make env` writes them.
        made = env.filled_in((ROOT / ".env.example").read_text())
        self.secrets = dict(re.findall(r"^([A-Z_]+)=(.+)$", made, re.MULTILINE))
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        self._compose = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
        if not shutil.which(self._compose[0]):
            pytest.fail("neither `docker compose` nor `docker-compose` is here: install one")

    def compose(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a compose command on the project."""
        command = [*self._compose, "-p", self.name, "-f", str(ROOT / "compose.yaml"), *arguments]
        environment = {k: v for k, v in os.environ.items() if k not in self.secrets}
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=environment | self.secrets,
        )
        if check and ended.returncode:
            raise AssertionError(f"{arguments} ended with {ended.returncode}:\n{ended.stderr}")
        return ended

    def states(self) -> dict[str, list[str]]:
        """Of each service, what the engine says of its containers: healthy, running, exited ..."""
        ids = self.compose("ps", "-q").stdout.split()
        found: dict[str, list[str]] = {}
        for container in json.loads(_docker("inspect", *ids)) if ids else []:
            state = container["State"]
            health = state.get("Health", {}).get("Status", state["Status"])
            service = container["Config"]["Labels"]["com.docker.compose.service"]
            found.setdefault(service, []).append(
                health if state["Status"] == "running" else state["Status"]
            )
        return found

    def wait_until_healthy(self, within: float = 180) -> None:
        """Every lasting service is up, and healthy where it can say so."""

        def all_well() -> bool:
            states = self.states()
            return all(
                states.get(name) and set(states[name]) <= {"healthy", "running"} for name in LASTING
            )

        try:
            eventually(all_well, within=within, what="every service healthy")
        except AssertionError as failure:
            logs = self.compose("logs", "--tail=20", check=False).stdout
            failure.add_note(f"{self.states()}\n{logs}")
            raise

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """An HTTP request to the published port, waiting for the outcome."""
        request = urllib.request.Request(
            f"http://127.0.0.1:5005{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Authorization": f"Bearer {self.secrets['ALLOCATION_API_KEY']}",
                "Content-Type": "application/json",
                "Prefer": "wait=20",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None  # not up, or gone in the middle

    def flower(self, path: str) -> Any:
        """What Flower's API answers."""
        login = f"allocation:{self.secrets['FLOWER_PASSWORD']}".encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:5555{path}",
            headers={"Authorization": f"Basic {base64.b64encode(login).decode()}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def sql(self, service: str, statement: str) -> str:
        """Rows of a service's database, asked as its own user."""
        password = self.secrets[f"{service.upper()}_DATABASE_PASSWORD"]
        address = f"postgresql://{service}:{password}@127.0.0.1/{service}"
        return self.compose(
            "exec", "-T", "postgres", "psql", "-qtA", address, "-c", statement
        ).stdout

    def container(self, service: str) -> str:
        """The id of a service's first container."""
        return self.compose("ps", "-q", service).stdout.split()[0]


def mails() -> list[str]:
    """The subjects of what arrived in mailpit."""
    with urllib.request.urlopen("http://127.0.0.1:8025/api/v1/messages", timeout=20) as answer:
        return [mail["Subject"] for mail in json.load(answer)["messages"]]


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Up and healthy from nothing; nothing is left behind."""
    made = Stack("allocation-test")
    made.compose("down", "--volumes", "--remove-orphans")
    made.compose("build")
    try:
        made.compose("up", "--detach")
        made.wait_until_healthy()
        yield made
    finally:
        made.compose("down", "--volumes", "--remove-orphans")
