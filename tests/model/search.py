"""Tries every story, breadth first, so that the first one that breaks a promise is a shortest."""

import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain

from tests.model.guarantees import AT_THE_END, GUARANTEES, Promise
from tests.model.protocol import Protocol
from tests.model.state import Bounds, State
from tests.model.steps import Steps, mishaps, progress


@dataclass(frozen=True)
class Verdict:
    """What a search found: no story breaks a promise, or a shortest one does."""

    broken: str | None
    story: list[str]
    states: int
    seconds: float

    def __str__(self) -> str:
        if self.broken is None:
            return f"every promise holds in {self.states:,} states"
        return "\n".join([f"not {self.broken}, in {self.states:,} states", *self.lines()])

    def lines(self) -> list[str]:
        """The story, each sentence with its number."""
        return [f"{number:3}. {sentence}" for number, sentence in enumerate(self.story, 1)]


def search(
    protocol: Protocol, bounds: Bounds, promises: Collection[Promise] = GUARANTEES
) -> Verdict:
    """Look for a shortest story within the bounds that breaks one of the promises."""
    always = [promise for promise in promises if promise not in AT_THE_END]
    at_the_end = [promise for promise in promises if promise in AT_THE_END]
    began = time.perf_counter()
    beginning = bounds.beginning()
    came_from: dict[State, tuple[State, str] | None] = {beginning: None}
    waiting = deque([beginning])
    while waiting:
        state = waiting.popleft()
        ahead = list(progress(protocol, state))
        for step in [*ahead, *mishaps(protocol, state)]:
            if step.after not in came_from:
                came_from[step.after] = (state, step.sentence)
                waiting.append(step.after)
        for promise in [*always, *at_the_end] if not ahead else always:
            if not promise(state):
                story = _story(came_from, state)
                return Verdict(promise.__name__, story, len(came_from), _since(began))
    return Verdict(None, [], len(came_from), _since(began))


def every_story_ends(protocol: Protocol, bounds: Bounds) -> bool:
    """Whether no story comes back to where it was, depth first.

    With a finite number of states, the promises about the end then cover every story in which each
    process does at last what it can do.
    """
    beginning = bounds.beginning()
    finished: set[State] = set()
    path = {beginning}
    stack = [(beginning, _steps(protocol, beginning))]
    while stack:
        state, left = stack[-1]
        step = next(left, None)
        if step is None:
            stack.pop()
            path.remove(state)
            finished.add(state)
        elif step.after in path:
            return False
        elif step.after not in finished:
            path.add(step.after)
            stack.append((step.after, _steps(protocol, step.after)))
    return True


def _steps(protocol: Protocol, state: State) -> Steps:
    return chain(progress(protocol, state), mishaps(protocol, state))


def _story(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    story = []
    while before := came_from[state]:
        state, sentence = before
        story.append(sentence)
    return story[::-1]


def _since(began: float) -> float:
    return time.perf_counter() - began
