"""The documentation's site: every link has a target, and the reference is up to date."""

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import browser_type_launch_args
from tools import reference, site

__all__ = ["browser_type_launch_args"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what the site is made of."""
    folder = tmp_path / "source"
    site.copy(site.ROOT, folder)
    shutil.copy(site.ROOT / "zensical.toml", folder)
    return folder


def test_the_site_has_every_page(tmp_path: Path) -> None:
    """Built strictly: no warning, no link that leads nowhere, nothing fetched from elsewhere."""
    built = site.build(site.ROOT, tmp_path)

    pages = {path.relative_to(built).as_posix() for path in built.rglob("*.html")}
    asked = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/vip/README.md"]
    asked += [path.relative_to(site.ROOT).as_posix() for path in (site.ROOT / "docs").rglob("*.md")]
    expected = {re.sub("README$", "index", name.removesuffix(".md")) + ".html" for name in asked}
    assert pages == expected | {"404.html"}


@pytest.mark.parametrize(
    "planted",
    [
        [
            ("README.md", "[x](docs/nowhere.md)", "page does not exist"),
            ("CHANGELOG.md", "[x](docs/pages.md#nowhere)", "anchor does not exist"),
        ],
        [
            ("CONTRIBUTING.md", "[x](docs/nowhere/)", "there is no docs/nowhere/"),
            ("docs/pages.md", "![x](img/nowhere.png)", "there is no img/nowhere.png"),
            ("docs/pages.md", '<a href="orders.html#no">x</a>', "there is no place orders.html#no"),
            ("docs/pages.md", '<img src="https://example.com/x">', "loads https://example.com/x"),
            ("docs/lost.md", "# Lost", "not in the navigation: docs/lost.md"),
        ],
    ],
    ids=["by the builder", "by what looks at its pages"],
)
def test_faults_are_found(
    source: Path, tmp_path: Path, planted: list[tuple[str, str, str]]
) -> None:
    """In any Markdown file of the project; each is named."""
    for file, fault, _ in planted:
        with (source / file).open("a") as text:
            text.write(f"\n\n{fault}\n")

    with pytest.raises(site.Refused) as refusal:
        site.build(source, tmp_path)

    assert [said for _, _, said in planted if said not in str(refusal.value)] == []


def test_the_site_is_read_and_searched_without_a_network(tmp_path: Path, page: Page) -> None:
    front = site.build(site.ROOT, tmp_path) / "index.html"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    page.goto(front.as_uri())
    page.keyboard.press("Control+k")
    page.keyboard.type("outbox")

    found = page.get_by_role("option", name="What is due later waits in the outbox")
    expect(found).to_be_visible()
    assert [url for url in asked if not url.startswith((tmp_path.as_uri(), "data:"))] == []


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_the_reference_says_what_the_code_says(name: str) -> None:
    """`make docs` writes it anew."""
    assert (reference.FOLDER / name).read_text() == reference.pages()[name]


def test_the_reference_has_no_page_that_nothing_makes() -> None:
    """But for the one that leads to the others."""
    pages = {path.name for path in reference.FOLDER.iterdir()}

    assert pages == {"README.md", *reference.pages()}


def test_the_list_of_decisions_has_each() -> None:
    folder = site.ROOT / "docs" / "decisions"

    listed = re.findall(r"^\| (\d+) \| \[.*?\]\((.*?)\)", (folder / "README.md").read_text(), re.M)
    files = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert listed == [(str(int(name[:4])), name) for name in files]


def test_the_picture_of_the_flow_is_that_of_the_readme() -> None:
    """It has the diagram's own source inside."""
    picture = ElementTree.parse(site.ROOT / "docs" / "img" / "flow.svg")

    drawn_from = picture.findtext("{http://www.w3.org/2000/svg}metadata")
    diagram = (site.ROOT / "README.md").read_text().partition("```mermaid\n")[2].partition("```")[0]
    assert drawn_from == diagram


def test_the_pages_name_only_files_and_tests_that_are_there() -> None:
    """In code: `allocation/entrypoints/relay.py`, `tests/storage/test_race.py::test_...`.

    Recipes make files, which they name by a comment.
    """
    folders = "allocation|workers|tests|tools|examples|bench"
    named = re.compile(rf"`((?:{folders})/[\w./-]+)(?:::(\w+))?`")
    found = {
        (file, test)
        for text in (page.read_text() for page in (site.ROOT / "docs").rglob("*.md"))
        for file, test in named.findall(text)
        if f"<!-- file: {file} -->" not in text
    }

    missing = [
        (file, test)
        for file, test in sorted(found)
        if not (site.ROOT / file).exists()
        or (test and f"def {test}(" not in (site.ROOT / file).read_text())
    ]
    assert missing == []
