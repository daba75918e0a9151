"""`allocation keys`: who may use the API."""

import sys
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allocation.entrypoints.cli.terminal import (
    ask_database,
    console,
    fail,
    misused,
    print_answer,
    print_table,
)
from allocation.messaging.command_line import AsJson, Program
from allocation.messaging.telemetry.escaping import escaped

if TYPE_CHECKING:
    from allocation.adapters.sql.api_keys import ApiKey, ApiKeys
    from allocation.settings import Settings

app = Program(name="keys", help="Manage the keys of the HTTP API.", no_args_is_help=True)


class Scope(StrEnum):
    """What a key is good for, as `adapters.sql.api_keys` names it."""

    READ = "read"
    WRITE = "write"


@app.command()
def create(
    name: Annotated[
        str,
        typer.Argument(help="Name of the key's owner, shown in the list; up to 100 characters."),
    ],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="read: GET requests; write: all others. Both unless given."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask whether to make the first key.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It can't be shown again, because only its hash is stored.

    After the first key is created, the API on loopback requires a key from every caller.
    """
    if not (0 < len(name) <= 100 and name.isprintable()):
        misused("the name of a key is 1 to 100 printable characters")
    settings, keys = _build()
    if not yes and _is_open(settings, keys):
        _ask_before_the_first(as_json=as_json)
    key, text = ask_database(settings, lambda: keys.create(name, scope or list(Scope)))
    if as_json:
        console.print_json(data={"key": text} | _row(key))
        return
    console.print(
        f"Key {key.id} for {escaped(name)}, with permission to {' and '.join(key.scopes)}:",
        markup=False,
    )
    typer.echo(text)
    console.print("It is not shown again. Send it as `Authorization: Bearer <key>`.")


@app.command("list")
def show_list(as_json: AsJson = False) -> None:
    """List all keys without their secrets."""
    settings, keys = _build()
    rows = [_row(key) for key in ask_database(settings, keys.all)]
    if as_json:
        console.print_json(data=rows)
    elif rows:
        print_table(rows)
    else:
        console.print("There are no keys: `allocation keys create NAME` makes one.")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key; within seconds no process of the API accepts it any more."""
    settings, keys = _build()
    if not ask_database(settings, lambda: keys.revoke(key_id)):
        fail(f"no valid key has the id {key_id}: `allocation keys list` shows them")
    last = not settings.api_key and not ask_database(settings, keys.any_valid)
    print_answer(f"The key {escaped(key_id)} is revoked.", {"revoked": key_id}, as_json=as_json)
    if last:
        typer.echo(f"allocation: {_NO_KEY_LEFT}", err=True)


_FIRST = (
    "no key was ever created, so an API on loopback without ALLOCATION_API_KEY requires none;"
    " within 2 seconds of the first key it requires one from every caller, also from pages and"
    " programs that work now, and revoking all keys does not open it again"
)
_NO_KEY_LEFT = (
    "no valid key is left, and the API still requires one: a revoked key may have been in the wrong"
    " hands, so revoking it opens nothing. `allocation keys create NAME` creates a new one"
)


def _build() -> "tuple[Settings, ApiKeys]":
    from allocation import bootstrap
    from allocation.adapters.sql.api_keys import ApiKeys

    dependencies = bootstrap.build()
    return dependencies.settings, ApiKeys(dependencies.engine)


def _is_open(settings: "Settings", keys: "ApiKeys") -> bool:
    """Whether the API requires no key: it is on loopback, and there was never one."""
    from allocation.settings import is_loopback

    if settings.api_key or not is_loopback(settings.host):
        return False
    return not ask_database(settings, keys.any_made)


def _ask_before_the_first(*, as_json: bool) -> None:
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        misused(f"{_FIRST}: use --yes to create it")
    typer.echo(f"{_FIRST[0].upper()}{_FIRST[1:]}.", err=True)
    typer.confirm("Create it?", abort=True, err=True)


def _row(key: "ApiKey") -> dict[str, Any]:
    times = ("created_at", "revoked_at")
    row = asdict(key) | {"scopes": " ".join(key.scopes)}
    return row | {name: row[name] and row[name].isoformat(timespec="seconds") for name in times}
