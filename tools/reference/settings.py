"""The page about settings, made from the classes that read them."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from allocation.settings import Settings
from tools.reference import markdown
from tools.reference.markdown import code, table
from workers.notification.settings import Settings as NotificationSettings
from workers.warehouse.settings import Settings as WarehouseSettings

_HEADS = ("variable", "type", "default", "meaning")
_SIGNS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


def page() -> str:
    """One table for each of the two."""
    return markdown.page(
        "Settings",
        "`allocation/settings.py`, `workers/settings.py` and those of each worker",
        "Each is a variable of the environment, read when a process starts. One that is empty"
        " counts as unset; one that can't be used ends the process with a sentence that names it.",
        "## Of api, worker, relay, inbound and the command line",
        table(_HEADS, _rows(Settings)),
        "## Of the subscribers: warehouse and notification",
        table(_HEADS, dict.fromkeys(chain(_rows(WarehouseSettings), _rows(NotificationSettings)))),
    )


def _rows(settings: type[BaseSettings]) -> Iterable[Sequence[str]]:
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        default = "" if field.default is None else code(field.default)
        yield code(f"{prefix}{name}".upper()), _kind(field), default, field.description or ""


def _kind(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return " or ".join(code(choice) for choice in choices)
    types = get_args(field.annotation) or (field.annotation,)
    said = next(kind.__name__ for kind in types if kind not in (None, type(None)))
    words = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "Path": "folder",
        "bool": "`true` or `false`",
    }
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for kind, name, sign in _SIGNS
        if isinstance(bound, kind)
    ]
    return ", ".join((words[said], *bounds))
