"""Text of others, and errors of the system, on their way to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Replace control characters, which could move the cursor or worse, by a question mark."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def reason_of(err: OSError) -> str:
    """Say in words what failed, after the file concerned: where it was to go, if it was moved."""
    named = err.filename if err.filename2 is None else err.filename2
    place = "" if named is None else f"{named}: "
    return f"{place}{err.strerror or err}"
