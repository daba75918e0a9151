"""The pages of docs/reference/, made from what the code says; `make docs` writes them."""

from collections.abc import Mapping
from pathlib import Path

from tools.reference import command_line, http, messages, settings, tables

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def pages() -> Mapping[str, str]:
    """By the file's name: the whole text of each page."""
    return {
        "settings.md": settings.page(),
        "commands.md": messages.commands(),
        "events.md": messages.events(),
        "inbound.md": messages.inbound(),
        "http.md": http.page(),
        "command-line.md": command_line.page(),
        "tables.md": tables.page(),
    }
