"""A fake of the worker's event loop."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Timer:
    """A call that is due after some seconds."""

    loop: "Loop"
    seconds: float
    call: Callable[[], object]

    def cancel(self) -> None:
        if self in self.loop.later:
            self.loop.later.remove(self)

    __eq__ = object.__eq__


class Loop:
    """An event loop whose rounds and time the test drives."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], object]] = deque()
        self.later: list[Timer] = []

    def call_soon(self, call: Callable[[], object]) -> None:
        self.soon.append(call)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        self.later.append(Timer(self, seconds, call))
        return self.later[-1]

    def run_soon(self) -> None:
        """Finish this round."""
        while self.soon:
            self.soon.popleft()()

    def run_due(self) -> None:
        """Let no time pass."""
        self.run_soon()
        while due := [timer for timer in self.later if not timer.seconds]:
            self.later.remove(due[0])
            due[0].call()

    def run_later(self) -> None:
        """Let all time pass."""
        while self.later:
            self.later.pop(0).call()
