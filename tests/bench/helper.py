"""Processes beside the bench's own: they take requests and give answers, one JSON line each.

Imports little, for it is imported by all of them, and they should be there at once.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


class Helper:
    """A module that runs `serve` in a process of its own."""

    def __init__(self, module: str, *args: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            # Ctrl-C is for the bench itself, which then ends its helpers.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, do: str, **arguments: Any) -> None:
        """Ask for something; `answer` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest request that was not answered yet."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.answer()

    def close(self) -> None:
        """End the process: its input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def ask_all(helpers: list[Helper], do: str, **arguments: Any) -> list[Any]:
    """Ask all at the same time; their answers."""
    for helper in helpers:
        helper.send(do, **arguments)
    return [helper.answer() for helper in helpers]


def serve(**handlers: Callable[..., Any]) -> None:
    """The helper's side: answer each request by the handler of its name, until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = handlers[request.pop("do")](**request)
        print(json.dumps(answer), flush=True)
