"""The client's methods, made from the contract and the routes: `python -m tools.client`."""

import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from allocation.contract.registry import COMMANDS, FOLLOW_UPS, MessageType
from allocation.entrypoints.api.description.openapi import ROUTES
from allocation.entrypoints.api.http import parsing
from allocation.entrypoints.api.http.parsing import ONLY_IN_MESSAGES
from allocation.entrypoints.api.http.preconditions import VERSION

FILE = Path(__file__).parents[1] / "allocation" / "client" / "commands.py"

_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_MODULE = '''\
"""Every command that a caller may send, as a typed method; `python -m tools.client` writes them.

They follow from the commands of `allocation/contract` and the routes of the API: a test fails when
they differ. What each field means is said in docs/reference/commands.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NotRequired, TypedDict, Unpack
from uuid import UUID

from allocation.client.messages import Outcome

Day = date | str
"""A date, or its text: YYYY-MM-DD."""


class Options(TypedDict, total=False):
    """What goes with every command.

    `wait`: seconds to wait for its outcome. `idempotency_key`: what makes sending it again
    harmless; without one a new one is made, and kept over the client's own tries.
    """

    wait: float
    idempotency_key: UUID | str | None


{items}

class Commands(ABC):
    """The commands. Each method returns once Allocation has taken the command.

    `if_match`: the version of the batch, line or product that the caller has seen, as the `ETag` of
    its GET gives it, with or without quotes. If it is another one by then, the command is refused.
    """

    @abstractmethod
    def send(
        self,
        name: str,
        *,
        wait: float = 0.0,
        idempotency_key: UUID | str | None = None,
        **fields: Any,
    ) -> Outcome:
        """Send the command `name`; None says the same as no field."""

{methods}

def _version(if_match: str | None) -> str | None:
    return None if if_match in (None, "*") else if_match.strip('"')


ROUTES: Mapping[str, tuple[str, str]] = {routes}
"""By command: method and path."""

CHOOSING: Mapping[str, str] = {choosing}
"""By command that shares its route: the field that says which one is meant, also if it is null."""
'''


def source() -> str:
    """The whole text of `allocation/client/commands.py`."""
    by_command = {_method_name(command): route for route in ROUTES for command in route.commands}
    commands = {
        _method_name(name): command for name, command in COMMANDS.items() if name not in FOLLOW_UPS
    }
    routes = {
        name: (by_command[name].method.upper(), by_command[name].path)
        for name in commands
        if name in by_command
    }
    text = _MODULE.format(
        items="\n\n".join(_items(commands.values())),
        methods="\n\n".join(_method(name, each) for name, each in commands.items()),
        routes=routes,
        choosing={
            name: parsing.fields(f"allocation.{name}", by_command[name].path_parameters)[0]
            for name in routes
            if len(by_command[name].commands) > 1
        },
    )
    ruff = Path(sys.executable).with_name("ruff")
    formatted = subprocess.run(
        [ruff, "format", "--stdin-filename", FILE, "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return formatted.stdout


def _method_name(command: str) -> str:
    return command.removeprefix("allocation.")


def _method(name: str, command: MessageType) -> str:
    fields = {
        field: schema for field, schema in command.fields.items() if field not in ONLY_IN_MESSAGES
    }
    parameters = [_parameter(field, schema, command) for field, schema in fields.items()]
    given = [_argument(field, schema) for field, schema in fields.items()]
    said = textwrap.fill(f'"""{command.schema["description"]}', 89)  # columns, without the end
    docstring = f'{said}\n"""' if "\n" in said else f'{said}"""'
    body = f'{docstring}\nreturn self.send("{name}", {", ".join(given)}, **options)'
    signature = ", ".join(["self", "*", *parameters, "**options: Unpack[Options]"])
    method = f"def {name}({signature}) -> Outcome:\n{textwrap.indent(body, '    ')}"
    return textwrap.indent(method, "    ") + "\n"


def _argument(field: str, schema: Mapping[str, Any]) -> str:
    if field == VERSION:
        return f"{field}=_version(if_match)"
    return f"{field}=list({field})" if schema.get("type") == "array" else f"{field}={field}"


def _parameter(name: str, schema: Mapping[str, Any], command: MessageType) -> str:
    if name == VERSION:
        return "if_match: str | None = None"
    must = name in command.required
    return f"{name}: {_type(name, schema)}" + ("" if must else " | None = None")


def _type(name: str, schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if schema.get("format") == "date":
        return "Day"
    if "array" in types:
        return f"Sequence[{_item_name(name)}]"
    return _TYPES[next(each for each in types if each != "null")]


def _item_name(field: str) -> str:
    return field.removesuffix("s").capitalize()


def _items(commands: Iterable[MessageType]) -> Iterable[str]:
    """A class for the elements of each list that a command takes."""
    for command in commands:
        for name, schema in command.fields.items():
            if schema.get("type") == "array":
                item = schema["items"]
                fields = [
                    f"{field}: {kind}"
                    if field in item["required"]
                    else f"{field}: NotRequired[{kind}]"
                    for field, kind in ((f, _type(f, of)) for f, of in item["properties"].items())
                ]
                said = f'"""One element of `{name}` of `{command.schema["title"]}`."""'
                body = textwrap.indent("\n".join([said, "", *fields]), "    ")
                yield f"class {_item_name(name)}(TypedDict):\n{body}\n"


if __name__ == "__main__":
    FILE.write_text(source())
    print("allocation/client/commands.py")
