"""`allocation keys`: who may use the API."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from allocation import bootstrap
from allocation.adapters.sql.api_keys import ApiKey, ApiKeys
from allocation.entrypoints.cli.choices import Scope
from allocation.entrypoints.cli.terminal import console, fail, misused, print_table, reaching
from allocation.messaging.telemetry.escaping import escaped
from allocation.settings import is_loopback


def create(name: str, scopes: Sequence[Scope], *, yes: bool, as_json: bool) -> None:
    """Make a key, print it, and ask before the first one unless `yes`."""
    if not (0 < len(name) <= 100 and name.isprintable()):
        misused("the name of a key is 1 to 100 printable characters")
    if not yes and _is_open():
        _ask_before_the_first(as_json=as_json)
    key, text = reaching("the database", lambda: _keys().create(name, scopes))
    if as_json:
        console.print_json(json.dumps({"key": text} | _row(key)))
        return
    console.print(
        f"Key {key.id} for {escaped(name)}, good to {' and '.join(key.scopes)}:", markup=False
    )
    typer.echo(text)
    console.print("It is not shown again. Send it as `Authorization: Bearer <key>`.")


def show_list(*, as_json: bool) -> None:
    """Show every key, but for its secret."""
    rows = [_row(key) for key in reaching("the database", lambda: _keys().all())]
    if as_json:
        console.print_json(json.dumps(rows))
    elif rows:
        print_table(rows)
    else:
        console.print("There are no keys: `allocation keys create NAME` makes one.")


def revoke(key_id: str, *, as_json: bool) -> None:
    """Take a key back; within seconds no process of the API accepts it any more."""
    if not reaching("the database", lambda: _keys().revoke(key_id)):
        fail(f"no valid key has the id {key_id}: `allocation keys list` shows them")
    last = not _settings_have_one() and not reaching("the database", lambda: _keys().any_valid())
    if as_json:
        console.print_json(json.dumps({"revoked": key_id}))
    else:
        console.print(f"The key {escaped(key_id)} is revoked.", markup=False)
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


def _is_open() -> bool:
    """Whether the API requires no key: it is on loopback, and there was never one."""
    if not is_loopback(bootstrap.settings().host):
        return False
    return not _settings_have_one() and not reaching("the database", lambda: _keys().any_made())


def _settings_have_one() -> bool:
    return bool(bootstrap.settings().api_key)


def _ask_before_the_first(*, as_json: bool) -> None:
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        misused(f"{_FIRST}: use --yes to create it")
    typer.echo(f"{_FIRST[0].upper()}{_FIRST[1:]}.", err=True)
    typer.confirm("Create it?", abort=True, err=True)


def _keys() -> ApiKeys:
    return ApiKeys(bootstrap.engine(bootstrap.settings().database_url))


def _row(key: ApiKey) -> dict[str, Any]:
    times = ("created_at", "revoked_at")
    row = asdict(key) | {"scopes": " ".join(key.scopes)}
    return row | {name: row[name] and row[name].isoformat(timespec="seconds") for name in times}
