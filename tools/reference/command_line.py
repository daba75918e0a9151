"""The page about the command line, made from the programs themselves."""

from collections.abc import Iterable
from typing import Any

import typer
from typer.main import get_command

from allocation.__main__ import command_line
from tools.reference import markdown
from tools.reference.markdown import code, table
from workers.notification import __main__ as notification
from workers.warehouse import __main__ as warehouse

_PROGRAMS: tuple[tuple[str, typer.Typer], ...] = (
    ("allocation", command_line()),
    ("python -m workers.warehouse", warehouse.app),
    ("python -m workers.notification", notification.app),
)


def page() -> str:
    """Every command of every program, each with its arguments and options."""
    return markdown.page(
        "Command line",
        "the programs' own help",
        "Their exit statuses and their output are described in [the command"
        " line](../command-line.md).",
        *(part for name, app in _PROGRAMS for part in _command(name, get_command(app), top=True)),
    )


def _command(path: str, command: Any, *, top: bool = False) -> Iterable[str]:
    yield f"{'##' if top else '###'} {path}"
    yield _paragraphs(command.help or "")
    yield table(
        ("argument or option", "default", "meaning"),
        [_parameter(each) for each in command.params if each.name != "help"],
    )
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _command(f"{path} {name}", inner)


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        name = code(parameter.name.upper())
    else:
        name = ", ".join(map(code, (*parameter.opts, *parameter.secondary_opts)))
    must = "must be given" if parameter.required else ""
    plain = isinstance(parameter.default, str | int | float) and parameter.default is not False
    return name, must or (code(parameter.default) if plain else ""), parameter.help or ""


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
