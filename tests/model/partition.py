"""The order of a sku's commands in a partition, whichever worker has it: every story is tried.

One queue, whose commands are numbered in the order in which they were accepted; two workers. The
database is one: a command that was decided is known by its number, under the product's lock.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Rules:
    """The mechanisms. What the service has is the default; a control has less."""

    single_active_consumer: bool = True
    gives_up_by_closing: bool = True
    """A worker closes its channel, which gives back what it has; else it cancels its consumer."""
    inbox: bool = True
    """A command that was decided is not decided again."""
    decides_in_order: bool = True
    """No process of a worker gets a command while another one has an earlier one of the sku."""


class Worker(NamedTuple):
    delivered: tuple[int, ...] = ()
    """Not acknowledged; those of a channel that was closed are not here, but may be `running`."""
    running: tuple[int, ...] = ()
    """What its pool decides or will decide, in this order, even if the worker is gone."""


class State(NamedTuple):
    queue: tuple[int, ...]
    line: tuple[int, ...]
    """The workers that consume, the first one first."""
    workers: tuple[Worker, ...]
    effects: tuple[int, ...] = ()
    moves: int = 0
    """How often a worker may still die, or give the partition up."""


def find(rules: Rules, commands: int = 3, moves: int = 2) -> list[str] | None:
    """A shortest story after which commands took effect in another order, or twice; None: none."""
    beginning = State(tuple(range(1, commands + 1)), (0, 1), (Worker(), Worker()), moves=moves)
    came_from: dict[State, tuple[State, str] | None] = {beginning: None}
    waiting = deque([beginning])
    while waiting:
        state = waiting.popleft()
        if state.effects != tuple(range(1, len(state.effects) + 1)):
            return _story(came_from, state)
        for sentence, after in _steps(rules, state):
            if after not in came_from:
                came_from[after] = (state, sentence)
                waiting.append(after)
    return None


def _steps(rules: Rules, state: State) -> Iterator[tuple[str, State]]:
    for number, worker in enumerate(state.workers):
        name = f"worker {number + 1}"
        is_active = number in (state.line[:1] if rules.single_active_consumer else state.line)
        if is_active and state.queue:
            first, *rest = state.queue
            got = worker._replace(
                delivered=(*worker.delivered, first), running=(*worker.running, first)
            )
            yield f"{name} gets {first}", _set(state, number, got, queue=tuple(rest))
        for command in worker.running[:1] if rules.decides_in_order else worker.running:
            left = tuple(each for each in worker.running if each != command)
            known = rules.inbox and command in state.effects
            effects = state.effects if known else (*state.effects, command)
            decided = worker._replace(running=left)
            yield (
                f"{name} {'knows' if known else 'decides'} {command}",
                _set(state, number, decided, effects=effects),
            )
        for command in worker.delivered:
            if command not in worker.running:
                settled = tuple(each for each in worker.delivered if each != command)
                after = _set(state, number, worker._replace(delivered=settled))
                yield f"{name} acknowledges {command}", after
        if state.moves and number in state.line:
            yield _moved(rules, state, number)


def _moved(rules: Rules, state: State, number: int) -> tuple[str, State]:
    """The worker dies and comes back, or gives the partition up: it is the last in the line."""
    worker = state.workers[number]
    line = (*(each for each in state.line if each != number), number)
    if not rules.gives_up_by_closing:
        after = state._replace(line=line, moves=state.moves - 1)
        return f"worker {number + 1} cancels its consumer, and consumes again", after
    after = _set(
        state,
        number,
        worker._replace(delivered=()),
        queue=(*worker.delivered, *state.queue),
        line=line,
        moves=state.moves - 1,
    )
    return f"worker {number + 1} loses its channel, and consumes again", after


def _set(state: State, number: int, worker: Worker, **changes: object) -> State:
    workers = list(state.workers)
    workers[number] = worker
    return state._replace(workers=tuple(workers), **changes)  # type: ignore[arg-type]


def _story(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    story = [f"effects: {state.effects}"]
    while before := came_from[state]:
        state, sentence = before
        story.append(sentence)
    return story[::-1]
