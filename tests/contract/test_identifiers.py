"""Ids: a strict rule where a command introduces one, and any stored id where one is looked up."""

import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

import pytest

from allocation.contract import codec, identifiers, inbound_events, registry
from allocation.domain.commands import Violation

BROUGHT = [
    ("allocation.create_batch", "batchref"),
    ("allocation.create_batch", "sku"),
    ("allocation.allocate", "orderid"),
    ("allocation.reserve", "orderid"),
    ("allocation.allocate_order", "orderid"),
    ("allocation.create_product", "sku"),
    ("allocation.return_goods", "batchref"),
]
"""Commands, and the ids that they introduce."""

ODD = {
    "   ": "is only white space",
    " E9": "has white space at its beginning",
    "E9 ": "has white space at its end",
    "\N{NO-BREAK SPACE}E9": "has white space at its beginning",
    "E9\N{EM SPACE}": "has white space at its end",
    "E\N{NO-BREAK SPACE}9": "has a space character other than the plain space U+00A0",
    "E\N{LINE SEPARATOR}9": "has a line separator U+2028",
    "E\N{PARAGRAPH SEPARATOR}9": "has a paragraph separator U+2029",
    "E9\N{ZERO WIDTH SPACE}": "has an invisible character U+200B",
    "E9\N{ZERO WIDTH JOINER}": "has an invisible character U+200D",
    "E\N{SOFT HYPHEN}9": "has an invisible character U+00AD",
    "\N{BYTE ORDER MARK}E9": "has an invisible character U+FEFF",
    "E\N{RIGHT-TO-LEFT OVERRIDE}9": "has an invisible character U+202E",
    "E\N{LANGUAGE TAG}9": "has an invisible character U+E0001",
    "e\N{COMBINING ACUTE ACCENT}": "is not in Unicode's composed form (NFC)",
    "\N{ANGSTROM SIGN}": "is not in Unicode's composed form (NFC)",
    ".": "is a dot segment, which a path can't contain",
    "..": "is a dot segment, which a path can't contain",
}
UNSTORABLE = {
    "E\x009": "has a control character U+0000",
    "E\x079": "has a control character U+0007",
    "E\x859": "has a control character U+0085",
    "E\ud8009": "has a character that is not Unicode text",
}
GOOD = ["SO/2026/001", "/", "...", "E 9", "żółw", "100%", "a%2Fb", "漢", "🪑", "é", "x" * 255, "-1"]
IDS = {"orderid", "sku", "batchref"}
KNOWN = [
    *((name, field) for name in registry.COMMANDS for field in registry.schema(name)["properties"]),
    *(
        (name, field)
        for name in (*registry.EVENTS, *inbound_events.TYPES)
        for field in registry.schema(name)["properties"]["data"]["properties"]
    ),
]
LOOKED_UP = sorted({each for each in KNOWN if each[1] in IDS} - set(BROUGHT))


def body_with(name: str, **fields: object) -> dict[str, Any]:
    """The contract's example, with these fields, or data."""
    example = registry.example(name)
    if name in registry.COMMANDS:
        return example | fields
    return example | {"data": example["data"] | fields}


def refused(name: str, field: str, texts: Iterable[str]) -> list[str]:
    """The texts that the contract refuses as this field."""
    return [text for text in texts if codec.violations(name, body_with(name, **{field: text}))]


@pytest.mark.parametrize(("name", "field"), BROUGHT)
@pytest.mark.parametrize("text", ODD | UNSTORABLE, ids=ascii)
def test_a_new_id_that_could_be_mistaken_for_another_is_refused(
    name: str, field: str, text: str
) -> None:
    """Its field is named, and the problem says what is wrong without repeating it."""
    problem = (ODD | UNSTORABLE)[text]

    assert codec.violations(name, body_with(name, **{field: text})) == [Violation(field, problem)]


@pytest.mark.parametrize(("name", "field"), BROUGHT)
def test_any_other_text_is_a_new_id(name: str, field: str) -> None:
    assert refused(name, field, GOOD) == []


@pytest.mark.parametrize(("name", "field"), LOOKED_UP)
def test_an_id_that_is_stored_stays_usable(name: str, field: str) -> None:
    """In commands about it, in events, and in what other systems say."""
    assert refused(name, field, [*ODD, *GOOD]) == []
    assert refused(name, field, UNSTORABLE) == list(UNSTORABLE)


def test_a_sku_in_a_line_of_an_order_is_looked_up() -> None:
    body = body_with("allocation.allocate_order", lines=[{"sku": "E9 ", "qty": 1}])

    assert codec.violations("allocation.allocate_order", body) == []


def test_the_pattern_says_nothing_that_the_rule_does_not_say() -> None:
    """Tools that know no format named identifier refuse less, never something else."""
    schema = registry.schema("allocation.create_batch")["properties"]["sku"]

    against = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) != "Cs"
        and not re.fullmatch(schema["pattern"], f"a{character}b")
    ]

    assert schema["format"] == identifiers.FORMAT
    assert [each for each in against if identifiers.problem(f"a{each}b") is None] == []
    assert {"\x00", "\x85", "\N{NO-BREAK SPACE}", "\N{ZERO WIDTH SPACE}"} <= set(against)


@pytest.mark.parametrize("text", [" E9", "E9 "])
def test_the_pattern_refuses_a_space_around_an_id(text: str) -> None:
    schema = registry.schema("allocation.create_batch")["properties"]["sku"]

    assert re.fullmatch(schema["pattern"], text) is None


def test_a_customer_is_in_the_callers_own_words() -> None:
    """Nothing is looked up by it: only control characters are refused."""
    words = body_with("allocation.allocate", customer=" ACME / Łódź\N{ZERO WIDTH JOINER}.")

    assert codec.violations("allocation.allocate", words) == []
    assert codec.violations("allocation.allocate", words | {"customer": "a\nb"}) == [
        Violation("customer", "has a control character U+000A")
    ]
