"""Links of a built site: each must lead to a file and a place in it, and nothing is loaded."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        self.links += [given["href"]] if "href" in given else []
        self.loaded += [given["src"]] if "src" in given else []
        self.loaded += [given["href"]] if tag == "link" and "href" in given else []


def broken(site: Path) -> Iterator[str]:
    """Each fault as a line: the page, and the address that leads nowhere or elsewhere."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        # It is served for any address, so its links are from the top.
        if path.name == "404.html":
            continue
        name = path.relative_to(site)
        for address in page.loaded:
            if urlsplit(address).scheme not in ("", "data"):
                yield f"{name}: loads {address}"
        for address in dict.fromkeys(page.links + page.loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            wanted = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not wanted.is_file():
                yield f"{name}: there is no {address}"
            elif wanted in pages and parts.fragment:
                place = unquote(parts.fragment)
                if place not in pages[wanted].places:
                    yield f"{name}: there is no place {address}"
