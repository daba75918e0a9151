"""Every message on the wire by its name, with its schema, its example and, if it is ours, its code.

A command is declared by its dataclass in `domain.commands`, its handler in
`service_layer.handlers`, and its schema and example in `contract/commands`; an event by its
dataclass in `domain.events`, and its schema and example in `contract/events`. The name on the wire
follows from the class: `CreateBatch` is `allocation.create_batch`, `BatchCreated` is
`allocation.batch_created.v1`, and `BatchCreatedV2` would be `allocation.batch_created.v2`. The
events of other systems have a schema and an example in `contract/inbound` alone.

Importing this module raises `Undeclared` for a message that lacks a part.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, is_dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import ModuleType
from typing import Any

from allocation.domain import commands, events
from allocation.domain.commands import Command, FollowUp, Malformed
from allocation.domain.events import Event
from allocation.domain.outcomes import Outcome
from allocation.service_layer.handlers import HANDLERS
from allocation.service_layer.unit_of_work import UnitOfWork

Json = dict[str, Any]
Handler = Callable[[Any, UnitOfWork], Outcome]

_CONTRACT = files(__package__)


class Undeclared(Exception):
    """A message has no dataclass, schema, example or handler; the text says which."""


@dataclass(frozen=True, slots=True)
class MessageType:
    """A command, an event of ours, or an event of another system."""

    schema: Json
    example: Json

    @property
    def fields(self) -> Json:
        """The JSON Schema of each keyword argument of a command, or of each field of event data."""
        return dict(self._own["properties"])

    @property
    def required(self) -> list[str]:
        """The names of the `fields` that are never left out."""
        return list(self._own["required"])

    @property
    def _own(self) -> Json:
        properties: Json = self.schema["properties"]
        own: Json = properties["data"] if "specversion" in properties else self.schema
        return own


@dataclass(frozen=True, slots=True)
class CommandType(MessageType):
    kind: type[Command]
    handler: Handler


@dataclass(frozen=True, slots=True)
class EventType(MessageType):
    kind: type[Event]


def wire_name(kind: type) -> str:
    """The name on the wire of a command or an event of this class."""
    name = "allocation." + re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    if not issubclass(kind, Event):
        return name
    versioned, count = re.subn(r"_v(\d+)$", r".v\1", name)
    return versioned if count else f"{name}.v1"


def declared(module: ModuleType, base: Any) -> dict[str, Any]:
    """The dataclasses of `module` that are a `base` and have no subclass, in order of definition.

    The keys are their names on the wire.
    """
    return {
        wire_name(kind): kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and is_dataclass(kind)
        and issubclass(kind, base)
        and kind is not Malformed  # what stands for a message that breaks the contract
        and not kind.__subclasses__()
    }


def documents(folder: Traversable, prefix: str = "") -> dict[str, MessageType]:
    """Schema and example of each message that has files in this folder of the contract."""
    texts = {file.name: file.read_text("utf-8") for file in folder.iterdir()}
    found = {}
    for stem in sorted({name.rpartition(".")[0].rpartition(".")[0] for name in texts}):
        parts = [f"{stem}.schema.json", f"{stem}.example.json"]
        if missing := [part for part in parts if part not in texts]:
            raise Undeclared(f"the folder {folder.name} of the contract has no {missing[0]}")
        schema, example = (json.loads(texts[part]) for part in parts)
        found[prefix + stem] = MessageType(schema, example)
    return found


def complete(
    kinds: Mapping[str, type], described: Collection[str], handled: Collection[type] | None = None
) -> None:
    """Raise Undeclared unless each class has a schema and a handler, and each schema a class."""
    for name, kind in kinds.items():
        if name not in described:
            raise Undeclared(f"{kind.__qualname__} has no schema in the contract for {name}")
        if handled is not None and kind not in handled:
            raise Undeclared(f"{kind.__qualname__} has no handler in service_layer/handlers.py")
    if unknown := sorted(described - kinds.keys()):
        raise Undeclared(
            f"the contract has a schema of {unknown[0]}, but the domain has no class for it"
        )


def _commands() -> dict[str, CommandType]:
    kinds, described = declared(commands, Command), documents(_CONTRACT / "commands", "allocation.")
    complete(kinds, described.keys(), HANDLERS.keys())
    return {
        name: CommandType(described[name].schema, described[name].example, kind, HANDLERS[kind])
        for name, kind in kinds.items()
    }


def _events() -> dict[str, EventType]:
    kinds, described = declared(events, Event), documents(_CONTRACT / "events")
    complete(kinds, described.keys())
    return {
        name: EventType(described[name].schema, described[name].example, kind)
        for name, kind in kinds.items()
    }


COMMANDS = _commands()
EVENTS = _events()
INBOUND = documents(_CONTRACT / "inbound")
MESSAGES: Mapping[str, MessageType] = {**COMMANDS, **EVENTS, **INBOUND}
NAMES: Mapping[type, str] = {
    **{each.kind: name for name, each in COMMANDS.items()},
    **{each.kind: name for name, each in EVENTS.items()},
}
"""By class: the name on the wire."""
FOLLOW_UPS = frozenset(name for name, each in COMMANDS.items() if issubclass(each.kind, FollowUp))
"""Names of the commands that the service sends to itself; no client sends one or waits for it."""


def schema(name: str) -> Json:
    """The JSON Schema of a message (`allocation.allocate`, `allocation.allocated.v1`)."""
    return MESSAGES[name].schema


def example(name: str) -> Json:
    """A valid body of a command, or a whole event."""
    return MESSAGES[name].example
