"""Links: between files of the project as between pages, and whether what they name is there."""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_TARGET = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def between_pages(text: str, source: str, page: str, pages: dict[str, str]) -> str:
    """Turn links between files of the project into links between pages.

    Args:
        text: Markdown.
        source: Path of its file in the project.
        page: Path of its page below the documentation's folder.
        pages: Path of a file in the project -> path of its page.

    Example:
        >>> pages = {"README.md": "index.md", "benchmarks/results.md": "figures/results.md"}
        >>> between_pages("[all](benchmarks/results.md)", "README.md", "index.md", pages)
        '[all](figures/results.md)'
    """

    def moved(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if urlsplit(target).scheme:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        found = pages.get(file) or pages.get(f"{file}/index.md")
        if found is None:
            return match[0]
        return f"]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"

    pieces, end = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [_TARGET.sub(moved, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, _TARGET.sub(moved, text[end:])])


class _Reader(HTMLParser):
    """Collects what a page links to, what it loads, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        rel = values.get("rel", "")
        if tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and "href" in values and rel not in ("canonical", "prev", "next"):
            self.loaded.append(values["href"])


def problems(site: Path) -> list[str]:
    """Check a built site without a network, and return a line for each problem.

    A link inside the site must lead to a file and to an anchor in it, and no page may load
    anything from another machine.
    """
    read: dict[Path, _Reader] = {}
    for file in sorted(site.rglob("*.html")):
        reader = _Reader()
        reader.feed(file.read_text(encoding="utf-8"))
        read[file.resolve()] = reader
    found = []
    for file, reader in read.items():
        name = file.relative_to(site.resolve())
        if name.name == "404.html":  # it may be shown at any address, so its links are absolute
            continue
        for address in reader.loaded:
            if urlsplit(address).netloc:
                found.append(f"{name} loads {address}")
        for address in [*reader.links, *reader.loaded]:
            if why := _broken(file, address, read):
                found.append(f"{name} links to {address}: {why}")
    return found


def _broken(page: Path, address: str, read: dict[Path, _Reader]) -> str:
    """Return what is wrong with a link, or nothing."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return ""
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in read and anchor not in read[target].anchors:
        return "no such anchor"
    return ""
