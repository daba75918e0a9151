"""The documentation as a site that needs no network and no server: `python -m tools.site`.

Pages stand in the site where their files stand in the project, so that every link between Markdown
files leads to the same page here, in an editor and where the code is kept.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.links import broken

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/vip/README.md", "docs")
_CONFIGURATION = "zensical.toml"
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.DOTALL | re.MULTILINE)
_PICTURE = "![How a command flows: the same in words is in the table below](docs/img/flow.svg)"


class Refused(Exception):
    """The site has a fault; the text says which."""


def build(source: Path, target: Path) -> Path:
    """The folder of the site, built below `target` from the project in `source`.

    Raises Refused for a warning of the builder, and for a link that leads nowhere.
    """
    pages, site = target / "build" / "pages", target / "site"
    for folder in (pages, site):
        shutil.rmtree(folder, ignore_errors=True)
    copy(source, pages)
    if target != source:
        shutil.copy(source / _CONFIGURATION, target)
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [zensical, "build", "--clean", "--strict"],
        cwd=target,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).partition("\nTraceback")[0]
    if done.returncode != 0:
        raise Refused(said)
    faults = list(broken(site)) + [f"not in the navigation: {page}" for page in _lost(pages, site)]
    if faults:
        raise Refused("\n".join(faults))
    return site


def copy(source: Path, pages: Path) -> None:
    """What the site is made of; the diagram as the picture of it, which needs no script."""
    for name in PAGES:
        wanted = pages / name
        wanted.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, wanted)
        else:
            wanted.write_text(_DIAGRAM.sub(_PICTURE, (source / name).read_text()))


def _lost(pages: Path, site: Path) -> Iterator[str]:
    """Pages that the front page's navigation does not lead to."""
    front = (site / "index.html").read_text()
    for page in sorted(pages.rglob("*.md")):
        address = str(page.relative_to(pages).with_suffix(".html")).replace("README", "index")
        if f'href="./{address}"' not in front and address != "index.html":
            yield str(page.relative_to(pages))


def main() -> None:
    """Build it in the project's own folder; ends with status 1 where it has a fault."""
    print("Building the site ...", flush=True)
    try:
        site = build(ROOT, ROOT)
    except Refused as refusal:
        sys.exit(str(refusal))
    count = len(list(site.rglob("*.html")))
    print(f"site/index.html: {count} pages, every link leads somewhere")


if __name__ == "__main__":
    main()
