"""How the command lines of the service and of its subscribers look: flags, help, common options."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the number; change nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _PlainFlags:
    """Help that shows no type for an option that takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class _Command(_PlainFlags, TyperCommand):
    pass


class Group(_PlainFlags, TyperGroup):
    """A group of commands, or all of them."""


class Program(typer.Typer):
    """A command line, or a group of its commands; `options` are Typer's."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "cls": Group,
            "add_completion": False,
            "pretty_exceptions_enable": False,
            "context_settings": {"help_option_names": ["-h", "--help"]},
        }
        super().__init__(**defaults | options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, cls=_Command, **options)
