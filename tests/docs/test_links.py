"""The links between the pages."""

import re
from pathlib import Path

import pytest

from tests.servers.processes import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    """Where it is one of this project's."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())

    lost = [link for link in links if not re.match(r"\w+:", link) and not _leads(page, link)]

    assert lost == []


def _leads(page: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    return target.exists() and (not heading or heading in _headings(target))


def _headings(page: Path) -> set[str]:
    """As addresses: in small letters, without punctuation, with hyphens for spaces."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
