"""The page that makes every HTTP request once."""

import json
import re

from tests.docs.blocks import blocks
from tests.docs.reader import Reader
from tests.servers.processes import ROOT

PAGE = "docs/http-by-curl.md"


def test_each_request_is_answered_as_the_page_says(reader: Reader) -> None:
    """Status and body, one after the other on one running service."""
    reader.read(PAGE)


def test_the_page_leaves_no_operation_out() -> None:
    """Each of the API's description is there once at least."""
    described = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    wanted = {
        (method.upper(), path)
        for path, item in described.items()
        for method in item
        if method != "parameters"
    }

    requests = [request for block in blocks(ROOT / PAGE) for request in _requests(block.text)]

    missing = [
        (method, path)
        for method, path in sorted(wanted)
        if not any(method == its and _fits(path, asked) for its, asked in requests)
    ]
    assert missing == []


def _requests(command: str) -> list[tuple[str, str]]:
    """Method and path of each request of a block; those of a loop are named in its head."""
    named = re.findall(r"in (.+); do", command)
    found = []
    for method, path, rest in re.findall(
        r"curl [^|\n]*?(?:-X (\w+) )?[\"']?http://127.0.0.1:5005(/[^?\"'\s]*)((?:\\\n|[^\n])*)",
        command,
    ):
        paths = [f"/{name}" for name in named[0].split()] if named else [path]
        found += [(method or ("POST" if " -d " in rest else "GET"), each) for each in paths]
    return found


def _fits(template: str, path: str) -> bool:
    parts, asked = template.split("/"), path.split("/")
    return len(parts) == len(asked) and all(
        part.startswith("{") or part == each for part, each in zip(parts, asked, strict=True)
    )
