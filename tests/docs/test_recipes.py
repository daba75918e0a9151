"""The recipes for contributors, followed in a copy of the project, whose own tests then run."""

import re

import pytest

from tests.docs.reader import Reader
from tests.servers.processes import ROOT

pytestmark = pytest.mark.long

PAGE = "docs/recipes.md"

DECIDE = """
from uuid import uuid4
from allocation import bootstrap
from allocation.domain.commands import CreateBatch, Recall
from allocation.service_layer.execution import execute
from allocation.service_layer.unit_of_work import Message

for command in (CreateBatch("b1", "LAMP", 1), Recall("LAMP", "it may catch fire")):
    outcome = execute(Message(uuid4(), command, uuid4()), bootstrap.build().unit_of_work())
    print(type(outcome).__name__, outcome.facts["status"])
"""


EDITED = {
    "allocation/domain/commands.py",
    "allocation/domain/events.py",
    "allocation/domain/product.py",
    "allocation/entrypoints/api/resources/products.py",
    "allocation/entrypoints/worker/tasks.py",
    "allocation/service_layer/handlers.py",
}
"""The files that a new command and its event touch; six at most.

Not counted: tests, the contract's JSON files, and what `make docs` writes.
"""
NOT_COUNTED = re.compile(
    r"tests/|allocation/contract/(commands|events)/.*\.json|"
    r"allocation/client/commands\.py|docs/reference/"
)


def test_the_recipe_for_a_command_makes_one_and_touches_few_files(reader: Reader) -> None:
    """It and its event are described, and keep the contract and the rules of style."""
    reader.run("git init --quiet && git add --all")

    reader.read(PAGE)

    changed = reader.run("git diff --name-only; git ls-files --others --exclude-standard")
    files = changed.stdout.splitlines()
    assert {file for file in files if not NOT_COUNTED.match(file)} == EDITED
    assert "allocation/client/commands.py" in files
    linted = reader.run(".venv/bin/lint-imports && .venv/bin/ruff format --check")
    assert linted.returncode == 0, linted.stdout
    (reader.folder / "decide.py").write_text(DECIDE)
    decided = reader.run(".venv/bin/allocation migrate >/dev/null; .venv/bin/python decide.py")
    assert decided.stdout == "Succeeded created\nSucceeded recalled\n", decided.stderr


def test_each_file_that_a_recipe_names_is_there() -> None:
    """But for those that it makes."""
    text = (ROOT / PAGE).read_text()
    made = set(re.findall(r"<!-- file: (\S+) -->", text))

    named = set(re.findall(r"`([a-z_.-]+(?:/[\w.-]*)+|compose\.yaml|\.env\.example)`", text))

    assert {name for name in named - made if not (ROOT / name).exists()} == set()
    assert len(named) > 15
