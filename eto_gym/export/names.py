"""Names of files, made of words that a record holds."""

from __future__ import annotations

from collections.abc import Iterable


def plain(name: str) -> str:
    """Return a name of letters, digits, dots and hyphens that is one file, and no hidden one."""
    kept = "".join(c if c.isalnum() or c in "-." else "-" for c in name)[:60]
    return kept.lstrip(".") or "other"


def plain_names(names: Iterable[str], *, taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a plain name for each name, all of them distinct and none of those taken."""
    used = set(taken)
    found = {}
    for name in sorted(set(names), key=lambda name: (plain(name) != name, name)):
        slug, number = plain(name), 1
        while slug in used:
            number += 1
            slug = f"{plain(name)}-{number}"
        used.add(slug)
        found[name] = slug
    return found
