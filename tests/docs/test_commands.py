"""The commands of the README, and the page with every HTTP request, on one running service."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allocation.entrypoints.api.description.openapi import document
from tests.docs.blocks import beginning, blocks
from tests.docs.reader import Reader
from tests.servers.processes import ROOT, Process
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("commands")]

PAGE = "docs/http-by-curl.md"
README = ROOT / "README.md"
IMPORT = ROOT / "docs" / "import-and-export.md"
WAREHOUSE = ROOT / "docs" / "warehouse-and-mails.md"
SERVES = "make up"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader whose service runs; one for this file, for it takes seconds to start and stop."""
    folder = tmp_path_factory.mktemp("serving")
    started: list[Process] = []

    def start(command: list[str | Path], *, name: str, **options: Any) -> Process:
        started.append(Process(command, log=folder / f"{name}.log", **options).start())
        return started[-1]

    reader = Reader(folder / "allocation", start)
    try:
        reader.stay(SERVES, "The API is ready at")
        yield reader
    finally:
        for process in started:
            process.stop()


def test_the_commands_of_the_readme_do_what_it_says(serving: Reader) -> None:
    """And of the pages on import and on the warehouse."""
    ordered = serving.run(beginning(README, "curl -i http://127.0.0.1:5005/v1/batches").text)
    assert ordered.returncode == 0
    assert ordered.stdout.count("HTTP/1.1 201 CREATED") == 2
    order = json.loads(ordered.stdout.splitlines()[-1])
    assert [line["batchref"] for line in order["lines"]] == ["shipment-77"]

    shipments = "batchref,sku,qty,eta\nshipment-78,LAMP,5,2030-01-31\nshipment-79,LAMP,x,\n"
    (serving.folder / "shipments.csv").write_text(shipments)
    tried, imported = _each_line(serving, IMPORT, "allocation import-batches")
    assert (tried[0], imported[0]) == (1, 1)
    assert (serving.folder / "wrong.csv").read_text().splitlines()[1:] == [
        "3,qty: is not a whole number,shipment-79,LAMP,x,"
    ]
    there = serving.run("curl -s http://127.0.0.1:5005/v1/products/LAMP")
    assert [batch["batchref"] for batch in json.loads(there.stdout)["batches"]] == ["shipment-78"]

    picks = "python -m workers.warehouse picks --orderid order-1 --json"
    eventually(lambda: json.loads(serving.run(picks).stdout), what="the pick of order-1")
    listed, dispatched, again = _each_line(serving, WAREHOUSE, "python -m workers.warehouse picks")
    assert (listed[0], dispatched[0], again[0]) == (0, 0, 1)
    assert "shipment-77" in listed[1]


def test_each_http_request_is_answered_as_its_page_says(serving: Reader) -> None:
    """Status and body, one after the other; the page's first block is what serves."""
    first, *requests = blocks(ROOT / PAGE)
    assert first.text.strip() == SERVES

    serving.do(requests, PAGE)


def test_the_page_leaves_no_operation_out() -> None:
    described = document()["paths"]
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


def _each_line(reader: Reader, page: Path, words: str) -> list[tuple[int, str]]:
    """Exit status and output of each line of the block with these words."""
    done = [reader.run(line) for line in beginning(page, words).text.splitlines()]
    return [(each.returncode, each.stdout) for each in done]


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
