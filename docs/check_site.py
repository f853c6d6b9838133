"""Checks a built site: every link inside it leads to a page and a place that exist, and nothing is loaded from outside.

``python docs/check_site.py docs/_build/html``. (Sphinx's linkcheck asks the network, and checks no anchors of its own
pages as they were written.)
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """The names that a page can be entered at, and what it links to and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, bool]] = []  # address, whether the browser loads it by itself
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif (tag, name) in LOADED or (tag, name) == ("a", "href"):
                self.links.append((value or "", tag != "a"))


def problems(site: Path) -> list[str]:
    """One line for each link that leads nowhere, and each thing that would be loaded from outside."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for address, loaded in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if loaded and parts.scheme != "data":
                    found.append(f"{path.relative_to(site)}: loads {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{path.relative_to(site)}: {address}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{path.relative_to(site)}: {address}: no such place")
    for path in sorted(site.rglob("*.css")):
        if "url(http" in path.read_text() or "url(//" in path.read_text() or "@import" in path.read_text():
            found.append(f"{path.relative_to(site)}: loads a style, font or picture from outside")
    return found


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    found = problems(site)
    print(
        "\n".join(found)
        or f"{site}: {len(list(site.rglob('*.html')))} pages, no broken link, nothing from outside"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
