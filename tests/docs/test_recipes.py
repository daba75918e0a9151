"""The recipes for contributors: followed in a copy of the project, whose own tests then judge."""

import re

from tests.docs.reader import Reader
from tests.servers.processes import ROOT

PAGE = "docs/recipes.md"


def test_the_recipe_for_a_command_makes_one(reader: Reader) -> None:
    """It and its event are described, and keep the contract and the rules of style."""
    reader.read(PAGE)

    linted = reader.run(".venv/bin/lint-imports")
    assert linted.returncode == 0, linted.stdout


def test_each_file_that_a_recipe_names_is_there() -> None:
    """But for those that it makes."""
    text = (ROOT / PAGE).read_text()
    made = set(re.findall(r"<!-- file: (\S+) -->", text))

    named = set(re.findall(r"`([a-z_.-]+(?:/[\w.-]*)+|compose\.yaml|\.env\.example)`", text))

    assert {name for name in named - made if not (ROOT / name).exists()} == set()
    assert len(named) > 15
