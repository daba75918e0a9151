"""Cells of CSV files: escapes texts that a spreadsheet would take for formulas, and reads them."""

import re
from typing import TypeVar

from allocation.contract.identifiers import trimmed

T = TypeVar("T")

# What OWASP's page on CSV injection lists. An apostrophe may be one that `cell` added.
_FORMULA = re.compile(r"[\s']*[=+\-@＝＋－＠]|'*[\t\r\n]")


def cell(value: T) -> T | str:
    """The value as a cell: a text that would be a formula begins with an apostrophe.

    Numbers and days stay what they are. `text` gives the same text back.
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def text(given: str) -> str:
    """What a cell says, without the white space around it and the apostrophe that `cell` adds."""
    said = trimmed(given)
    return said[1:] if said.startswith("'") and _FORMULA.match(said) else said
