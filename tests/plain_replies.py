"""Reads replies by patterns written as one thinks of them, in time that may be quadratic.

`parse_reply` must return the same for every text.
"""

from __future__ import annotations

import re

from eto_gym import Reply

_DECORATION = r"[\s>*_#`\-\"']*"
_COLON = "[:\N{FULLWIDTH COLON}]"
_ACTION_LINE = re.compile(
    rf"^{_DECORATION}action[*_`\s]*{_COLON}(.*)$", re.IGNORECASE | re.MULTILINE
)
_ACTION_INLINE = re.compile(rf"\baction[*_`]*\s?{_COLON}(.*)$", re.IGNORECASE | re.MULTILINE)
_THOUGHT = re.compile(rf"^{_DECORATION}thought[*_`\s]*{_COLON}[*_ ]*", re.IGNORECASE)
_OTHER_LABEL = re.compile(
    rf"^{_DECORATION}(thought|observation|action)\b[*_`\s]*{_COLON}", re.IGNORECASE
)
_WRAPPERS = ("`", '"', "'", "**", "*", "_", "“”", "‘’")


def read_plainly(spoken: str) -> Reply | None:
    """Read a reply that holds no reasoning."""
    for pattern in (_ACTION_LINE, _ACTION_INLINE):
        for match in pattern.finditer(spoken):
            action = _clean(match.group(1)) or _next_line(spoken, match.end())
            if action:
                before = spoken[: match.start()].strip()
                return Reply(_THOUGHT.sub("", before, count=1).strip(), action)
    return None


def _next_line(text: str, position: int) -> str:
    in_fence = False
    for line in text[position:].split("\n"):
        stripped = line.strip()
        if stripped.startswith("```") and not in_fence:
            in_fence = True
            continue
        if stripped:
            return "" if _OTHER_LABEL.match(line) else _clean(stripped)
    return ""


def _clean(text: str) -> str:
    text = text.strip().removeprefix("**").strip()
    while True:
        before = text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for mark in _WRAPPERS:
            opening, closing = (mark[0], mark[1]) if mark in ("“”", "‘’") else (mark, mark)
            longer = len(text) > len(opening) + len(closing)
            if longer and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip()
        if text == before:
            break
    return "" if not text.strip("`*_\"'.") else text
