"""Feedback that helps: an action that came to nothing is answered with why.

Off by default: with `feedback="helpful"` an environment adds one line to such an answer. It is told
from what the agent has seen so far, so it gives nothing away that is hidden.

Source: "ALIGN", 2025 (https://arxiv.org/abs/2505.21055), where an interface that explains itself
raises the success of agents.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

Feedback = Literal["plain", "helpful"]

_MARK = "\n(Why: "
_SHOWN = 200  # characters of an action that are compared, and of one that is shown


def with_reason(observation: str, reason: str) -> str:
    """Return an answer with why it is so; as it is where there is no reason."""
    return f"{observation}{_MARK}{reason})" if reason else observation


def without_reason(observation: str) -> str:
    """Return the engine's own answer.

    Example:
        >>> without_reason(with_reason("Nothing happens.", "You hold nothing."))
        'Nothing happens.'
    """
    return observation.partition(_MARK)[0]


def nearest(action: str, offered: Iterable[str], *, count: int = 3) -> list[str]:
    """Return the names or actions most like what was asked for, best first.

    Example:
        >>> nearest("mug", ["mug 1", "desk 1"])
        ['mug 1']
    """
    return difflib.get_close_matches(action[:_SHOWN], list(offered), n=count, cutoff=0.5)


def shown(action: str) -> str:
    """Return an action as a message quotes it: one line, and no longer than it need be."""
    line = " ".join(action.split())
    return repr(line if len(line) <= _SHOWN else line[:_SHOWN] + "...")
