"""The viewer's page: one HTML file that holds its data, and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import IO

import eto_gym
from eto_gym.errors import DataError
from eto_gym.files import replacing
from eto_gym.view.packing import Packer, encode
from eto_gym.view.sources import Found, find, watched

logger = logging.getLogger(__name__)

SCRIPTS = ("base.js", "statistics.js", "episode.js", "lists.js", "plots.js", "run.js", "main.js")
"""Files of the page's one script, in order."""

_TYPE = 'type="application/octet-stream"'  # a script element that no browser runs


def write_view(paths: Sequence[str | Path], out: str | Path, *, title: str = "") -> Path:
    """Write everything under some paths into one HTML file.

    What is shown is text that models wrote. It enters the page compressed and encoded, reaches the
    document as text nodes only, and the page's policy lets its own script run and no other, and
    nothing be fetched.

    Args:
        paths: Files of trajectories or pairs, and run folders.
        out: The HTML file; written atomically.
        title: Title of the page; by default the names of the paths.

    Raises:
        DataError: There is nothing to show, a file cannot be read, or `out` is one of the files
            that are to be shown.
    """
    out = Path(out)
    given = [Path(path) for path in paths]
    found = find(given)  # before a folder is made for the page
    if out.exists() and any(each.exists() and out.samefile(each) for each in watched(given)):
        raise DataError(f"{out} is among what is to be shown: name another file for the page")
    with replacing(out) as partial, partial.open("w", encoding="ascii") as file:
        packer = write_page(file, paths, title=title, found=found)
    for reason in found.refused:
        logger.warning("left out: %s", reason)
    for source, unread in packer.unread.items():
        number, reason = unread[0]
        logger.warning(
            "%s: skipped %d records or lines, the first: %d (%s)",
            *(source.path, len(unread), number, reason),
        )
    return out


def write_page(
    file: IO[str],
    paths: Sequence[str | Path],
    *,
    title: str = "",
    live: str = "",
    found: Found | None = None,
) -> Packer:
    """Write the page into an open file; with `live` it asks that address whether to reload.

    Returns:
        What packed the data, and knows what could not be read.
    """
    given = [Path(path) for path in paths]
    found = found or find(given)
    packer = Packer()
    chunks = list(packer.pack(found.sources))
    index = {
        "title": title or ", ".join(str(path) for path in given),
        "version": eto_gym.__version__,
        "live": live,
        "runs": [asdict(run) for run in found.runs],
        **packer.index(),
    }
    for part in _document(index, chunks):
        file.write(part)
    return packer


def _document(index: dict[str, object], chunks: Sequence[tuple[str, str]]) -> Iterator[str]:
    style = _asset("style.css")
    script = "".join(_asset(name) for name in SCRIPTS)
    connect = "'self'" if index["live"] else "'none'"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_ascii(html.escape(str(index['title'])))}</title>\n<style>{style}</style>\n"
        "</head>\n<body>\n<noscript>This page shows its data by a script.</noscript>\n"
        '<div id="app"></div>\n'
    )
    yield f'<script {_TYPE} id="index">{encode(index)}</script>\n'
    yield f"<script>{script}</script>\n"
    for name, text in chunks:
        yield f'<script {_TYPE} id="{name}">{text}</script>\n'
    yield "</body>\n</html>\n"


def _asset(name: str) -> str:
    return (files("eto_gym.view") / "assets" / name).read_text(encoding="ascii")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _ascii(text: str) -> str:
    return text.encode("ascii", "xmlcharrefreplace").decode()
