"""How the pages say days, moments and numbers."""

from datetime import UTC, date, datetime

from flask import Blueprint
from markupsafe import Markup

from allocation.adapters import contract

EVENTS = tuple(
    sorted(
        kind.removeprefix("allocation.").removesuffix(".v1")
        for kind in contract.EVENT_TYPES.values()
    )
)
"""The events by the names that the stream gives them."""


def register(blueprint: Blueprint) -> None:
    """Let every template use these words."""
    for word in (count, day, event_name, moment):
        blueprint.add_app_template_filter(word)
    blueprint.add_app_template_global(EVENTS, "EVENTS")  # type: ignore[arg-type]  # not only functions


def today() -> date:
    """The day by which a batch is overdue or not, in UTC."""
    return datetime.now(UTC).date()


def count(number: int) -> str:
    """With a narrow space between the thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def day(given: date | str | None, *, relative: bool = True) -> Markup:
    """A day, and how far off it is; without one it is on the shelf."""
    if given is None:
        return Markup("on the shelf")
    when = date.fromisoformat(given) if isinstance(given, str) else given
    text = f"{when.day} {when:%b %Y}"
    if relative:
        text += f" ({_distance((when - today()).days)})"
    return Markup('<time datetime="{}">{}</time>').format(when.isoformat(), text)


def moment(given: datetime | str) -> Markup:
    """A moment to the second, in UTC."""
    when = datetime.fromisoformat(given) if isinstance(given, str) else given
    when = when.astimezone(UTC)
    text = f"{when.day} {when:%b %Y, %H:%M:%S} UTC"
    return Markup('<time datetime="{}">{}</time>').format(when.isoformat(), text)


def event_name(kind: str) -> str:
    """`batch created` for `allocation.batch_created.v1`."""
    return kind.removeprefix("allocation.").rpartition(".v")[0].replace("_", " ")


def _distance(days: int) -> str:
    if days == 0:
        return "today"
    if days < 0:
        return f"overdue for {-days} day{'s' if days < -1 else ''}"
    return f"in {days} day{'s' if days > 1 else ''}"
