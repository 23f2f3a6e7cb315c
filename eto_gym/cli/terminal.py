"""Text of others on its way to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Replace control characters, which could move the cursor or worse, by a question mark."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
