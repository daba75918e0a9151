"""The registry: names that follow from classes, and errors that name the part that is missing."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from allocation.contract import registry
from allocation.contract.registry import Undeclared, complete, declared, wire_name
from allocation.domain.commands import CreateBatch, Malformed, Wanted
from allocation.domain.events import BatchCreated, Event, LineEvent


class Recalled(Event):
    """An event that has no schema."""


class RecalledV2(Event):
    """Another version of it."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (CreateBatch, "allocation.create_batch"),
        (BatchCreated, "allocation.batch_created.v1"),
        (Recalled, "allocation.recalled.v1"),
        (RecalledV2, "allocation.recalled.v2"),
    ],
)
def test_the_name_on_the_wire_follows_from_the_class(kind: type, name: str) -> None:
    assert wire_name(kind) == name


def test_parts_of_messages_and_shared_bases_are_no_messages() -> None:
    assert registry.NAMES.keys() & {Wanted, Malformed, Event, LineEvent} == set()


def test_messages_stand_in_the_order_in_which_their_classes_are_defined() -> None:
    module: Any = ModuleType("planted")
    module.Second = dataclass(frozen=True)(type("Second", (Event,), {}))
    module.First = dataclass(frozen=True)(type("First", (Event,), {}))
    module.NoEvent = dataclass(type("NoEvent", (), {}))

    assert list(declared(module, Event)) == ["allocation.second.v1", "allocation.first.v1"]


def test_a_class_without_a_schema_is_named() -> None:
    with pytest.raises(Undeclared, match=r"^Recalled has no schema .* allocation\.recalled\.v1$"):
        complete({"allocation.recalled.v1": Recalled}, set())


def test_a_class_without_a_handler_is_named() -> None:
    with pytest.raises(Undeclared, match=r"^CreateBatch has no handler in service_layer/handlers"):
        complete({"allocation.create_batch": CreateBatch}, {"allocation.create_batch"}, {Recalled})


def test_a_schema_without_a_class_is_named() -> None:
    with pytest.raises(
        Undeclared, match=r"a schema of allocation\.recall, but the domain has no class for it"
    ):
        complete({}, {"allocation.recall"})


def test_a_schema_without_an_example_is_named(tmp_path: Path) -> None:
    (tmp_path / "recall.schema.json").write_text("{}")

    with pytest.raises(Undeclared, match=r"has no recall\.example\.json$"):
        registry.documents(tmp_path)
