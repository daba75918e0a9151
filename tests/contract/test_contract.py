"""The contract: every schema, its example, and what we send and take are of one mind."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest

from allocation.contract import codec, identifiers, inbound_events, registry
from allocation.domain.commands import Allocate, Command, CreateBatch, Malformed, Violation
from allocation.domain.events import (
    Allocated,
    BatchCreated,
    BatchEtaChanged,
    BatchQuantityChanged,
    Deallocated,
    Dispatched,
    Event,
    OutOfStock,
    PromiseChanged,
    ReservationReleased,
    Reserved,
    StrategyChosen,
    WrittenOff,
)
from allocation.service_layer.unit_of_work import Message

FOLDER = Path(codec.__file__).parents[1] / "contract"
NAMES = list(registry.MESSAGES)


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_valid_and_its_example_keeps_it(name: str) -> None:
    """The example is what a reader copies."""
    jsonschema_rs.meta.validate(registry.schema(name))

    assert codec.violations(name, registry.example(name)) == []


def test_there_is_a_schema_and_an_example_for_every_command_and_event_and_no_other() -> None:
    """Nothing is promised that is not there."""
    commands = {path.name for path in (FOLDER / "commands").iterdir()}
    events = {path.name for path in (FOLDER / "events").iterdir()}
    inbound = {path.name for path in (FOLDER / "inbound").iterdir()}

    kinds = ("schema", "example")
    stems = [name.removeprefix("allocation.") for name in registry.COMMANDS]
    assert commands == {f"{stem}.{kind}.json" for stem in stems for kind in kinds}
    assert events == {f"{name}.{kind}.json" for name in registry.EVENTS for kind in kinds}
    assert inbound == {f"{name}.{kind}.json" for name in inbound_events.TYPES for kind in kinds}


@pytest.mark.parametrize("field", ["orderid", "sku"])
def test_one_name_has_one_shape_everywhere(field: str) -> None:
    """As a new id, and as a known one: the files stand alone, so the shapes must not drift."""
    found = [
        shape
        for name in NAMES
        if isinstance(shape := registry.MESSAGES[name].fields.get(field), dict)
    ]

    new = {json.dumps(shape) for shape in found if shape.get("format") == identifiers.FORMAT}
    known = {json.dumps(shape) for shape in found if "format" not in shape}

    assert (len(new), len(known)) == (1, 1)


@pytest.mark.parametrize("name", registry.COMMANDS)
def test_a_command_survives_the_wire(name: str) -> None:
    """What is sent is what is understood."""
    command = codec.parse_command(name, registry.example(name))

    assert codec.command_name(command) == name
    assert codec.parse_command(name, codec.command_body(command)) == command


@pytest.mark.parametrize("name", registry.COMMANDS)
def test_each_missing_field_and_each_foreign_one_is_named(name: str) -> None:
    """A caller learns what to mend."""
    example = registry.example(name)
    for field in registry.schema(name)["required"]:
        body = {key: value for key, value in example.items() if key != field}
        assert codec.violations(name, body) == [Violation(field, "is missing")]

    assert codec.violations(name, example | {"colour": 1}) == [
        Violation("colour", "is not a field of this command")
    ]


def test_a_whole_number_written_with_a_point_is_a_whole_number() -> None:
    """JSON knows one kind of number."""
    command = codec.parse_command(
        "allocation.create_batch", {"batchref": "b", "sku": "s", "qty": 3.0, "eta": "2030-01-31"}
    )

    assert command == CreateBatch("b", "s", 3, date(2030, 1, 31))
    assert isinstance(command, CreateBatch)
    assert type(command.qty) is int


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"batchref": "\ud800", "sku": "s", "qty": 1}, "batchref"),
        ({"batchref": "b\x00", "sku": "s", "qty": 1}, "batchref"),
        ({"batchref": "b\u200b", "sku": "s", "qty": 1}, "batchref"),
        ({"batchref": "b", "sku": "s", "qty": float("nan")}, "qty"),
        ({"batchref": "b", "sku": "s", "qty": 1, "eta": "0000-01-01"}, "eta"),
        ({"batchref": "b", "sku": "s", "qty": 1, "eta": "2030-02-30"}, "eta"),
        ({"batchref": "b", "sku": "s", "qty": 1, "\x00": 1}, "'\\x00'"),
    ],
)
def test_what_cannot_be_stored_is_malformed(body: dict[str, object], field: str) -> None:
    """And what is kept of it is plain ASCII."""
    command: Command = codec.parse_command("allocation.create_batch", body)

    assert isinstance(command, Malformed)
    [violation] = command.violations
    assert violation.field == field
    assert (violation.field + violation.problem + command.body).isascii()


def test_a_body_that_is_nested_too_deeply_to_be_written_is_malformed() -> None:
    nested: list[object] = []
    for _ in range(2000):
        nested = [nested]

    command = codec.parse_command("allocation.create_batch", {"batchref": nested})

    assert isinstance(command, Malformed)
    assert (command.violations[0].field, command.body) == ("body", "nested too deeply")


@pytest.mark.parametrize(
    "moment", ["0000-01-01T00:00:00Z", "2030-12-31T23:59:60Z", "0001-01-01T00:00:00+23:59"]
)
def test_a_moment_that_python_has_not_is_malformed(moment: str) -> None:
    """JSON Schema allows it: the year 0000, a leap second, a year before the first in UTC."""
    body = {"orderid": "o", "expires_at": moment}

    command = codec.parse_command("allocation.expire", body)

    assert registry.schema("allocation.expire")["properties"]["expires_at"]["format"] == "date-time"
    assert codec.violations("allocation.expire", body) == []
    assert isinstance(command, Malformed)
    assert [each.field for each in command.violations] == ["expires_at"]


RELEASED_BODIES: dict[str, dict[str, object]] = {
    "allocation.create_batch": {"batchref": "b", "sku": "s", "qty": 1, "eta": None},
    "allocation.change_batch_eta": {"batchref": "b", "eta": None},
    "allocation.allocate": {"orderid": "o", "sku": "s", "qty": 1},
    "allocation.allocate_order": {
        "orderid": "o",
        "lines": [{"sku": "s", "qty": 1}],
        "all_or_nothing": False,
        "ttl": None,
    },
    "allocation.reserve": {"orderid": "o", "sku": "s", "qty": 1, "ttl": 60},
    "allocation.confirm": {"orderid": "o"},
    "allocation.dispatch": {"orderid": "o", "sku": "s", "batchref": None},
}


@pytest.mark.parametrize("name", RELEASED_BODIES)
def test_a_command_is_written_as_the_first_release_wrote_it(name: str) -> None:
    """A repeat is compared with the command that was stored by an earlier release."""
    schema, body = registry.schema(name), RELEASED_BODIES[name]
    required = {field: body[field] for field in schema["required"]}

    assert codec.command_body(codec.parse_command(name, required)) == body


EVENTS: list[Event] = [
    BatchCreated("b", "LAMP", 1, date(2030, 1, 31), sequence=1),
    BatchCreated("b", "LAMP", 1, sequence=1),
    BatchQuantityChanged("b", "LAMP", 0, sequence=2),
    BatchEtaChanged("b", "LAMP", date(2030, 1, 31), sequence=2),
    BatchEtaChanged("b", "LAMP", None, sequence=2),
    BatchCreated("b", "LAMP", 1, None, date(2030, 1, 31), sequence=2),
    StrategyChosen("LAMP", "fewest_open", sequence=2),
    WrittenOff("b", "LAMP", 1, "water damage", sequence=2),
    Allocated("o", "LAMP", 1, "b", sequence=3),
    Allocated("o", "LAMP", 1, "b", date(2030, 1, 31), sequence=3),
    Deallocated("o", "LAMP", 1, "b", sequence=4),
    Deallocated("o", "LAMP", 1, None, sequence=4),
    OutOfStock("o", "LAMP", 1, sequence=5),
    Allocated("o", "LAMP", 1, "b", customer="c", sequence=6),
    Reserved("o", "LAMP", 1, "b", None, datetime(2030, 1, 1, tzinfo=UTC), sequence=6),
    ReservationReleased("o", "LAMP", 1, None, "expired", sequence=6),
    Dispatched("o", "LAMP", 1, "b", sequence=6),
    PromiseChanged("o", "LAMP", 1, "b", None, date(2030, 1, 31), sequence=6),
]


def told(event: Event) -> codec.Json:
    cause = Message(UUID(int=1), Allocate("o", "LAMP", 1), UUID(int=2))
    return codec.cloud_event(event, cause, datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_told_within_its_contract(event: Event) -> None:
    """With the product's number and the ids of its causes, and the same id each time."""
    body = told(event)

    assert codec.violations(body["type"], body) == []
    assert (body["sequence"], body["subject"]) == (event.sequence, "LAMP")
    assert (body["causationid"], body["correlationid"]) == (str(UUID(int=1)), str(UUID(int=2)))
    assert told(event)["id"] == body["id"]


@pytest.mark.parametrize("name", registry.EVENTS)
def test_an_event_of_its_examples_fields_is_the_example(name: str) -> None:
    """So that a class lacks no field of its schema, and has no other."""
    example = registry.example(name)
    event = registry.EVENTS[name].kind(**example["data"], sequence=example["sequence"])

    data = told(event)["data"]
    assert data == dict.fromkeys(data) | example["data"]


def test_an_event_that_breaks_the_contract_is_never_told() -> None:
    """It is a fault of ours, and nothing is committed."""
    with pytest.raises(AssertionError, match="breaks its contract"):
        told(Allocated("o", "LAMP", 0, "b", sequence=1))


WITHOUT_SLASH = json.dumps(r"^[^\u0000-\u001f\u007f-\u009f/]+$")
WITH_SLASH = json.dumps(r"^[^\u0000-\u001f\u007f-\u009f]+$")
"""The one change to a field of the events: since 0.1 an id may have a slash."""

RELEASED = sorted((Path(__file__).parent / "released").glob("*.json"))


@pytest.mark.parametrize("release", RELEASED, ids=lambda path: path.stem)
def test_what_senders_of_a_release_send_is_still_understood(release: Path) -> None:
    """A new field of a command is optional, for ever."""
    then = json.loads(release.read_text())

    for name in then.keys() & registry.COMMANDS.keys():
        assert codec.violations(name, then[name]["example"]) == []
        assert registry.schema(name)["required"] == then[name]["schema"]["required"]
    assert then.keys() <= set(NAMES)


def without_prose(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of each field without its description, which may be reworded in any release."""
    return {
        field: {keyword: rule for keyword, rule in schema.items() if keyword != "description"}
        for field, schema in fields.items()
    }


@pytest.mark.parametrize("release", RELEASED, ids=lambda path: path.stem)
def test_readers_of_a_release_find_in_events_all_that_they_knew(release: Path) -> None:
    """A field may be added; to take one away, or to change one, is a new version of the event."""
    then = json.loads(release.read_text().replace(WITHOUT_SLASH, WITH_SLASH))

    for name in then.keys() - registry.COMMANDS.keys():
        now, before = registry.schema(name), then[name]["schema"]
        assert set(before["required"]) <= set(now["required"])
        data = before["properties"]["data"]
        assert set(data["required"]) <= set(now["properties"]["data"]["required"])
        fields = without_prose(data["properties"])
        known = without_prose(registry.MESSAGES[name].fields)
        assert {field: known.get(field) for field in fields} == fields
