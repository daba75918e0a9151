"""Sentences for people: why a command was refused, a field is wrong, or a message is dead."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint

from allocation.contract import registry
from allocation.entrypoints.api.http.problems import KINDS
from allocation.entrypoints.api.pages import template_filters

DEAD_LETTERS = {
    "unreadable": "The message can't be read",
    "unknown task": "No command has this name",
    "unknown field": "The command has a field that this release doesn't know",
    "unknown type": "No event has this type",
    "unknown version": "The event has a version that this release doesn't know",
    "malformed": "The event breaks its contract",
    "conflict": "An earlier event with this id has other contents",
    "failed": "Every attempt failed",
    "revoked": "It was revoked before a worker began",
    "expired": "It had expired before a worker began",
    "terminated": "It was terminated while a worker decided it",
    "rejected": "The consumer rejected it",
    "delivery_limit": "It was delivered too often without an acknowledgement",
    "maxlen": "Its queue was full",
    "unknown": "The reason is unknown",
}
"""By the reason of a dead letter; the first eleven are ours, the others the broker's."""

MEANWHILE = "changed meanwhile"
"""The refusal of a command that expects another version of what it changes."""

RELEASES = {
    "released": "the caller released it",
    "expired": "it expired",
    "moved": "it moved to another batch, or waits again",
}
"""By the reason why a reservation ended."""


def register(blueprint: Blueprint) -> None:
    """Let every template use these sentences."""
    for name, sentence in (("dead_letter_reason", dead_letter), ("release_reason", release)):
        blueprint.add_app_template_filter(sentence, name)


def refusal(reason: str, facts: Mapping[str, Any]) -> str:
    """Why a command was refused, with its facts."""
    if reason not in KINDS:
        return f"The command was refused: {reason}."
    try:
        return KINDS[reason].with_facts.format_map(facts)
    except KeyError:  # decided by another release, with other facts
        return KINDS[reason].sentence


def field(command: str, name: str, problem: str) -> str:
    """What is wrong with a field of the command's form, and what to write there."""
    schema = registry.schema(command)["properties"].get(name, {})
    kinds = schema.get("type", ())
    if problem == "is missing":
        return "This field is required."
    if "integer" in kinds:
        least, most = (template_filters.count(schema[end]) for end in ("minimum", "maximum"))
        return f"Write a whole number from {least} to {most}."
    if schema.get("format") == "date":
        return "Write a day like 2030-01-31, or leave the field empty."
    return f"This {problem.removeprefix('the value ')}."


def dead_letter(reason: str) -> str:
    """Why a message is dead."""
    return DEAD_LETTERS.get(reason, reason)


def release(reason: str) -> str:
    """Why a reservation ended."""
    return RELEASES.get(reason, reason)
