"""Lets the reference show docstrings as they are meant: doctests as code, and `<` as itself."""

from __future__ import annotations

import re
from typing import Any

import griffe

_HEADING = re.compile(r"^([ \t]*)Example:[ \t]*$", re.MULTILINE)
_CODE = re.compile(r"(`[^`]*`|^[ \t]*(?:>>>|\.\.\.).*$)", re.MULTILINE)


def shown(text: str) -> str:
    """Return a docstring with the heading that griffe knows, and no HTML in it.

    Example:
        >>> shown("Named <task>, as in `<task>`.")
        'Named &lt;task>, as in `<task>`.'
    """
    pieces = _CODE.split(_HEADING.sub(r"\1Examples:", text))
    pieces[::2] = [re.sub(r"<(?=[A-Za-z/])", "&lt;", piece) for piece in pieces[::2]]
    return "".join(pieces)


class Doctests(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)
