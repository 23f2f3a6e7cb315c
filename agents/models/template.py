"""Chat templates with their variables and the date written into them, the same in every process.

A template may read the clock, and may be given variables. What a model is trained on must be what
it is played with, at any time, by us and by whoever loads its folder: so the variables are set at
the beginning of the template itself, and a date stands where it asked for one.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eto_gym.errors import EtoGymError

DATE_VARIABLE = "ETO_GYM_DATE"
"""Environment variable with the date of a run (YYYY-MM-DD), for the processes that it starts."""

_CLOCK = re.compile(r"""strftime_now\(\s*(["'])((?:(?!\1).)*)\1\s*\)""")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMATS = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%B %d, %Y", "%b %d, %Y")


def reads_clock(template: str) -> bool:
    """Whether a template asks for the date of today."""
    return _CLOCK.search(template) is not None


def template_of(folder: Path) -> str:
    """Return the chat template that lies in a model's folder; "" where there is none."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    template = config.get("chat_template") if isinstance(config, dict) else None
    return template if isinstance(template, str) else ""


def run_date() -> str:
    """Return the date of this run as YYYY-MM-DD: what `ETO_GYM_DATE` says, or else today.

    Raises:
        EtoGymError: `ETO_GYM_DATE` is no date.
    """
    told = os.environ.get(DATE_VARIABLE, "")
    try:
        return (datetime.date.fromisoformat(told) if told else datetime.date.today()).isoformat()
    except ValueError as err:
        raise EtoGymError(f"expected {DATE_VARIABLE} as YYYY-MM-DD, got {told!r}") from err


def settle_template(template: str, variables: Mapping[str, Any], date: str = "") -> str:
    """Return a template in which its variables are set, and which reads no clock.

    Args:
        template: The template (Jinja).
        variables: Their names and values, of JSON's kinds. A `date_string` is also the date that
            the template asks the clock for.
        date: That date where there is no `date_string`; "" for `run_date`.

    Raises:
        EtoGymError: A name is none, or a value cannot be written down.

    Example:
        >>> settle_template("{{ strftime_now('%d %b %Y') }}", {}, "2025-07-26")
        "{{ '26 Jul 2025' }}"
        >>> settle_template("{{ x }}", {"x": False})
        "{% set x = false %}{{ '' }}{{ x }}"
    """
    text = str(
        variables.get("date_string") or date or (run_date() if reads_clock(template) else "")
    )

    def told(match: re.Match[str]) -> str:
        return (
            "'" + _formatted(text, match.group(2)).replace("\\", "\\\\").replace("'", "\\'") + "'"
        )

    settled = _CLOCK.sub(told, template)
    if not variables:
        return settled
    head = "".join(f"{{% set {_name(name)} = {_literal(variables[name])} %}}" for name in variables)
    # What ends a block swallows a newline after it, and an expression does not.
    head += "{{ '' }}"
    return settled if settled.startswith(head) else head + settled


def _formatted(text: str, form: str) -> str:
    """Return a date as a template wants it; what is no date that is known here, as it is."""
    for known in _FORMATS:
        try:
            return datetime.datetime.strptime(text, known).strftime(form)
        except ValueError:
            continue
    return text


def _name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise EtoGymError(f"expected the name of a template's variable, got {name!r}")
    return name


def _literal(value: Any) -> str:
    """Return a value as Jinja writes it: JSON, but for the name of nothing."""
    if isinstance(value, Mapping):
        inner = (
            f"{json.dumps(str(key), ensure_ascii=False)}: {_literal(item)}"
            for key, item in value.items()
        )
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if value is None:
        return "none"
    if not isinstance(value, str | bool | int | float):
        raise EtoGymError(f"a template's variable is of JSON's kinds, got {value!r:.60}")
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError as err:
        raise EtoGymError(f"a template's variable is finite, got {value!r}") from err
