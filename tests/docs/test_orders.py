"""The examples of the page on an order's life, each on a shop of its own, in memory."""

import doctest
import io
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any
from uuid import uuid4

import pytest

from allocation.adapters.memory import MemoryStore, MemoryUnitOfWork
from allocation.contract import codec, registry
from allocation.domain.books import Line
from allocation.domain.outcomes import Outcome, Refused
from allocation.service_layer.execution import execute
from allocation.service_layer.handlers import NotOnTheBooks
from allocation.service_layer.unit_of_work import Message
from tests.docs.blocks import Block, blocks
from tests.servers.processes import ROOT

PAGE = ROOT / "docs" / "orders.md"
EXAMPLES = [block for block in blocks(PAGE) if block.language == "pycon"]
FIRST_DAY = date(2030, 3, 1)


class Shop:
    """Decides each command with all its follow-ups; the page sets the day."""

    def __init__(self) -> None:
        self._now = datetime.combine(FIRST_DAY, time(9), UTC)
        self._uow = MemoryUnitOfWork(MemoryStore(), lambda: self._now)

    def names(self) -> dict[str, Any]:
        """What an example may call: each command by its name, and these three."""
        named: dict[str, Any] = {
            name.removeprefix("allocation."): self._asking(name) for name in registry.COMMANDS
        }
        return named | {"day": self.day, "line": self.line, "batch": self.batch}

    def day(self, today: str) -> None:
        """Have the day begin; all that is due by then is decided."""
        self._now = datetime.combine(date.fromisoformat(today), time(), UTC)
        self._follow()

    def line(self, orderid: str, sku: str | None = None) -> None:
        parts = [
            part
            for key, part in sorted(self._uow.store.lines.items())
            if key[0] == orderid and sku in (None, key[1])
        ]
        print(", ".join(_standing(part) for part in parts) or "no line")

    def batch(self, batchref: str) -> None:
        its = self._uow.store.batches[batchref]
        print(f"{its.purchased} pieces, {its.allocated} promised")

    def _asking(self, name: str) -> Any:
        def ask(**body: Any) -> None:
            assert codec.violations(name, body) == []
            message = Message(uuid4(), codec.parse_command(name, body), uuid4())
            try:
                print(_said(execute(message, self._uow)))
            except NotOnTheBooks as problem:
                print(f"failed: {problem}")
            self._follow()

        return ask

    def _follow(self) -> None:
        """Decide what is pending, and what is due by now."""
        store = self._uow.store
        while True:
            due = [each for each, at in store.scheduled.items() if at <= self._now]
            waiting = [row.message for row in store.commands.values() if row.status == "pending"]
            undone = [
                each
                for each in (*waiting, *due)
                if each.id not in store.commands or store.commands[each.id].outcome is None
            ]
            if not undone:
                return
            execute(undone[0], self._uow)
            store = self._uow.store


def _standing(part: Line) -> str:
    if part.batchref is None:
        return f"{part.qty} wait"
    day = f" on {part.eta}" if part.eta else ""
    held = [f"{part.held} of {part.batchref}{day}"] if part.held else []
    gone = [f"{part.gone} of {part.batchref} left"] if part.gone else []
    return ", ".join(held + gone)


def _said(outcome: Outcome) -> str:
    facts = dict(outcome.facts)
    if isinstance(outcome, Refused):
        return _words(f"refused: {outcome.reason}", facts)
    return _words(str(facts.pop("status")), facts)


def _words(first: str, facts: Mapping[str, Any]) -> str:
    return "  ".join([first, *(f"{name}={fact}" for name, fact in facts.items() if fact)])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: f"line {block.line}")
def test_each_example_answers_as_the_page_says(example: Block) -> None:
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    session = doctest.DocTestParser().get_doctest(
        example.text, Shop().names(), f"orders.md:{example.line}", str(PAGE), example.line
    )

    result = runner.run(session, out=said.write)

    assert (result.failed, said.getvalue()) == (0, "")
    assert result.attempted > 1


def test_each_command_for_callers_has_an_example() -> None:
    given = "".join(block.text for block in EXAMPLES)
    for_callers = registry.COMMANDS.keys() - registry.FOLLOW_UPS

    missing = [
        name for name in for_callers if f">>> {name.removeprefix('allocation.')}(" not in given
    ]

    assert missing == []
