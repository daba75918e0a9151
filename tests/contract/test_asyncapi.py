"""The messages' description is valid AsyncAPI, and complete."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest
from kombu.message import Message

from allocation.adapters.rabbitmq import topology
from allocation.contract.asyncapi import document
from allocation.entrypoints.worker.admission import check
from allocation.entrypoints.worker.app import app

CONTRACT = Path(__file__).parents[2] / "allocation" / "contract"
OFFICIAL = Path(__file__).parent / "asyncapi" / "3.0.0.schema.json"
MESSAGES: dict[str, Any] = document()["components"]["messages"]


def named_by_files(folder: str, prefix: str = "") -> set[str]:
    """What the contract's files in `folder` describe, whatever the code says."""
    names = (path.name for path in (CONTRACT / folder).glob("*.schema.json"))
    return {prefix + name.removesuffix(".schema.json") for name in names}


def validator(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Of a schema in the document, by the dialect that AsyncAPI's own schemas are read in."""
    whole = {"allOf": [schema], "components": document()["components"]}
    return jsonschema_rs.Draft7Validator(whole, validate_formats=True)


def test_the_document_is_valid_asyncapi() -> None:
    """By the schema that the AsyncAPI initiative publishes."""
    official = jsonschema_rs.validator_for(json.loads(OFFICIAL.read_text()))

    assert [error.message for error in official.iter_errors(document())] == []


def test_every_message_of_the_contract_is_described_and_no_other() -> None:
    """File by file, each on the channel of its kind."""
    channels = document()["channels"]

    assert {name: set(channels[name]["messages"]) for name in channels if "queue" not in name} == {
        "allocation.commands": named_by_files("commands", "allocation."),
        "allocation.events": named_by_files("events"),
        "allocation.inbound": named_by_files("inbound"),
    }


def test_every_reference_leads_somewhere() -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [each for value in part.values() for each in references(value)]
        return [each for value in part for each in references(value)] if type(part) is list else []

    found = references(document())
    for reference in found:
        place: Any = document()
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]

    assert len(found) > len(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_each_example_keeps_its_own_schema(name: str) -> None:
    """Payload and headers, formats included; and the schema refuses an empty message."""
    message = MESSAGES[name]
    for example in message["examples"]:
        validator(message["payload"]).validate(example["payload"])
        if "headers" in message:
            validator(message["headers"]).validate(example["headers"])

    assert not validator(message["payload"]).is_valid([])
    assert not validator(message["payload"]).is_valid({})


@pytest.mark.parametrize("name", document()["channels"]["allocation.commands"]["messages"])
def test_each_command_is_admitted_as_it_is_described(name: str) -> None:
    """The worker's admission takes the example's headers and body for a task of this name."""
    message = MESSAGES[name]
    example = message["examples"][0]
    app.loader.import_default_modules()

    check(
        Message(
            json.dumps(example["payload"]).encode(),
            content_type=message["contentType"],
            content_encoding=message["bindings"]["amqp"]["contentEncoding"],
            headers=example["headers"],
        ),
        app.tasks,
    )

    assert UUID(example["headers"]["id"])


def test_every_exchange_and_queue_of_the_broker_is_described() -> None:
    """By name, type and arguments; each dead-letter queue says whose letters it takes."""
    channels = document()["channels"].values()
    bindings = [channel["bindings"]["amqp"] for channel in channels]
    exchanges = {each["exchange"]["name"]: each["exchange"]["type"] for each in bindings[:3]}
    queues = {each["address"]: each for each in channels if "x-exchange" in each}

    dead = topology.dead_queues()
    assert exchanges == {
        queue.exchange.name: queue.exchange.type
        for queue in topology.queues()
        if queue.name not in dead
    }
    assert {
        name: (each["x-exchange"], each["x-queue-arguments"]) for name, each in queues.items()
    } == {queue.name: (queue.exchange.name, queue.queue_arguments) for queue in topology.queues()}
    assert all(
        f"The dead letters of {of}:" in queues[name]["description"] for name, of in dead.items()
    )


def test_what_the_service_sends_to_itself_is_marked() -> None:
    """No caller needs to send a follow-up."""
    internal = {name for name, each in MESSAGES.items() if {"name": "internal"} in each["tags"]}

    assert internal == {
        "allocation.allocate_waiting",
        "allocation.expire",
        "allocation.expire_batch",
        "allocation.mark_overdue",
        "allocation.review_promises",
    }
