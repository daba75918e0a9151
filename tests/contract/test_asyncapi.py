"""The messages' description: valid AsyncAPI, whole, and the same as the files in docs/."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from allocation import asyncapi
from allocation.adapters import contract, inbound_events, topology
from allocation.api import openapi

ROOT = Path(__file__).parents[2]
OFFICIAL = Path(__file__).parent / "asyncapi" / "3.0.0.schema.json"
MESSAGES = asyncapi.document()["components"]["messages"]


@pytest.mark.parametrize(
    ("name", "made", "command"),
    [
        ("openapi.json", openapi.document(), "openapi"),
        ("asyncapi.json", asyncapi.document(), "asyncapi"),
    ],
)
def test_the_files_in_docs_are_those_of_this_version(
    name: str, made: dict[str, Any], command: str
) -> None:
    """Whoever changes the contract or a route writes them anew."""
    kept = json.loads((ROOT / "docs" / name).read_text())

    assert kept == made, f"docs/{name} has drifted: run `make docs` (`allocation {command}`)"


def test_it_is_valid_asyncapi() -> None:
    """By the schema that the AsyncAPI Initiative publishes."""
    official = json.loads(OFFICIAL.read_text())

    jsonschema_rs.validator_for(official).validate(asyncapi.document())


def test_every_message_of_the_contract_is_in_it() -> None:
    """Commands, events and inbound events, and nothing else."""
    files = {
        path.name.removesuffix(".schema.json")
        for path in (ROOT / "allocation" / "contract").glob("*/*.schema.json")
    }
    commands = {name if "." in name else f"allocation.{name}" for name in files}

    assert set(MESSAGES) == commands


def test_every_exchange_and_queue_is_in_it() -> None:
    """Those that other programs write to or read from, and the dead-letter queues."""
    channels = asyncapi.document()["channels"]
    queues = {channel["address"] for name, channel in channels.items() if name.endswith(".queue")}

    assert queues == set(topology.names())
    assert {topology.COMMANDS, topology.EVENTS, topology.INBOUND} <= set(channels)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_example_meets_its_schema(name: str) -> None:
    """The payload's own schema, with what it refers to."""
    message = MESSAGES[name]
    schema = message["payload"] | {"components": asyncapi.document()["components"]}
    validator = jsonschema_rs.Draft7Validator(schema, validate_formats=True)

    assert message["examples"]
    for example in message["examples"]:
        validator.validate(example["payload"])


def test_names_come_from_the_contract() -> None:
    """What is internal is a command; what is inbound has a schema."""
    assert set(asyncapi.INTERNAL) <= set(contract.COMMANDS)
    assert set(inbound_events.TYPES) <= set(MESSAGES)
