"""Pieces of Markdown: tables, blocks, whole pages."""

import json
from collections.abc import Iterable, Mapping, Sequence


def page(title: str, origin: str, *parts: str) -> str:
    """A page that says what it was made from, so that nobody mends it by hand."""
    note = f"<!-- Made from {origin} by `make docs`; a test fails where the two differ. -->"
    return "\n\n".join((f"# {title}", note, *(part for part in parts if part))) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Empty without rows; a cell is one line, and its bars are escaped."""
    lines = [_row([_cell(cell) for cell in row]) for row in rows]
    return "\n".join((_row(heads), "|---" * len(heads) + "|", *lines)) if lines else ""


def code(text: object) -> str:
    """`text` as code; nothing stays nothing."""
    return f"`{text}`" if text != "" else ""


def block(value: object) -> str:
    """JSON, as people write it."""
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"


def fields(schema: Mapping[str, object]) -> str:
    """The fields of an object of JSON Schema, those of the objects inside it after a dot."""
    return table(("field", "type", "must be there", "meaning"), _fields(schema, ""))


def _fields(schema: Mapping[str, object], before: str) -> Iterable[Sequence[str]]:
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    assert isinstance(properties, Mapping)
    assert isinstance(required, Sequence)
    for name, field in properties.items():
        must = "yes" if name in required else ""
        yield code(before + name), kind(field), must, field.get("description", "")
        if "properties" in field:
            yield from _fields(field, f"{before}{name}.")
        items = field.get("items", {})
        if "properties" in items:
            yield from _fields(items, f"{before}{name}[].")


def kind(field: Mapping[str, object]) -> str:
    """The type in a few words, with its bounds."""
    if "const" in field:
        return f"always {code(field['const'])}"
    if "enum" in field:
        assert isinstance(field["enum"], Sequence)
        return "one of " + ", ".join(code(json.dumps(value)) for value in field["enum"])
    for joined in ("oneOf", "anyOf"):
        if joined in field:
            options = field[joined]
            assert isinstance(options, Sequence)
            return " or ".join(kind(option) for option in options)
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    types = field.get("type", "any")
    said = " or ".join(types) if isinstance(types, list) else str(types)
    notes = [str(field["format"])] if "format" in field else []
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        if low in field and high in field:
            notes.append(f"{field[low]} to {field[high]}{unit}")
        elif low in field:
            notes.append(f"at least {field[low]}{unit}")
        elif high in field:
            notes.append(f"at most {field[high]}{unit}")
    return f"{said} ({', '.join(notes)})" if notes else said


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
