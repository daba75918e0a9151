"""How the pages say days, moments and numbers."""

from datetime import UTC, date, datetime

from flask import Blueprint
from markupsafe import Markup

from allocation.contract import registry
from allocation.entrypoints.api import state

EVENTS = tuple(
    sorted(kind.removeprefix("allocation.").removesuffix(".v1") for kind in registry.EVENTS)
)
"""The events by the names that the stream gives them."""


def register(blueprint: Blueprint) -> None:
    """Let every template use these words."""
    for word in (arriving, count, duration, event_name, when):
        blueprint.add_app_template_filter(word)
    blueprint.add_app_template_global(EVENTS, "EVENTS")  # type: ignore[arg-type]  # not only functions


def today() -> date:
    """The day by which a batch is overdue or expired, in the shop's time zone."""
    return datetime.now(state.current().dependencies.settings.calendar).date()


def count(number: int) -> str:
    """With a narrow space between the thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def when(given: date | datetime | str | None, *, relative: bool = False) -> Markup | str:
    """A date, or a time in UTC, as people write it; `relative` adds how far off the date is.

    None means on the shelf. A text that is neither is returned as it is.
    """
    if given is None:
        return "on the shelf"
    try:
        exact = _parsed(given) if isinstance(given, str) else given
        if isinstance(exact, datetime):
            exact = exact.astimezone(UTC) if exact.tzinfo else exact.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return str(given)
    text = f"{exact.day} {exact:%B %Y}"
    if isinstance(exact, datetime):
        text += f", {exact:%H:%M} UTC"
    elif relative:
        text += f" ({_distance((exact - today()).days)})"
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact.isoformat(), text)


def arriving(eta: date | None) -> Markup | str:
    """When stock comes, as the end of a sentence."""
    if eta is None:
        return "on the shelf"
    if eta < today():
        return Markup("overdue since {}").format(when(eta))
    return Markup("arriving {}").format(when(eta, relative=True))


def duration(seconds: float) -> str:
    """A duration in the largest unit of which it has at least two."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}s"
    return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"


def event_name(kind: str) -> str:
    """`batch created` for `allocation.batch_created.v1`."""
    return kind.removeprefix("allocation.").rpartition(".v")[0].replace("_", " ")


def _parsed(text: str) -> date | datetime:
    return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)


def _distance(days: int) -> str:
    if days == 0:
        return "today"
    if days < 0:
        return f"overdue for {-days} day{'s' if days < -1 else ''}"
    return f"in {days} day{'s' if days > 1 else ''}"
