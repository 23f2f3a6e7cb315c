"""How much of a conversation the agent reads when it replies: all of it, or the last exchanges."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message

FULL = "full"
"""The whole conversation, as in the paper."""

OMISSION = "\n\n(What happened between this and what follows is left out.)"
"""Ends the task's message where exchanges after it are left out."""

_LAST = re.compile(r"last:([1-9][0-9]{0,8})")


def check_history(history: str) -> str:
    """Return a history setting if it is one.

    Raises:
        EtoGymError: It is neither "full" nor "last:K" with K of 1 or more.
    """
    if history != FULL and not _LAST.fullmatch(history):
        raise EtoGymError(
            f"expected history 'full', or 'last:K' with K of 1 or more, got {history!r}"
        )
    return history


def bounded(messages: Sequence[Message], head: int, history: str) -> tuple[Message, ...]:
    """Return the messages that the agent reads of a conversation that ends with an observation.

    Args:
        messages: The conversation: the head, the first observation, then a reply and an observation
            for every step.
        head: Messages that precede the first observation.
        history: "full" for all; "last:K" for the head, the first observation (which tells the task)
            and the last K exchanges of a reply and what came of it.

    Example:
        >>> talk = [Message("user", "task")]
        >>> for turn in "abc":
        ...     talk += [Message("assistant", turn), Message("user", turn.upper())]
        >>> [m.content for m in bounded(talk, 0, "last:1")][1:]
        ['c', 'C']
    """
    if history == FULL:
        return tuple(messages)
    found = _LAST.fullmatch(check_history(history))
    assert found is not None
    start, kept = head + 1, 2 * int(found[1])
    if len(messages) - start <= kept:
        return tuple(messages)
    task = messages[head]
    shortened = Message(task.role, task.content + OMISSION, task.train)
    return (*messages[:head], shortened, *messages[-kept:])


def as_sampled(messages: Sequence[Message], head: int, history: str) -> list[tuple[Message, ...]]:
    """Return the conversations in which an episode's replies were sampled, to train on them.

    A reply stands after the messages that were read for it. Where these go on from the conversation
    of the reply before, both are in one; with "full" all are. Each reply is marked for training
    once, if it was, and what follows the last reply is left out.

    Args:
        messages: The whole conversation.
        head: Messages that precede the first observation.
        history: How much of it each reply was given to.

    Example:
        >>> talk = [Message("user", "task")]
        >>> for turn in "abc":
        ...     talk += [Message("assistant", turn, train=True), Message("user", turn.upper())]
        >>> rows = as_sampled(talk, 0, "last:1")
        >>> [[m.content[:4] for m in row if m.train or m.role == "user"] for row in rows]
        [['task', 'a', 'A', 'b'], ['task', 'B', 'c']]
    """
    found: list[tuple[Message, ...]] = []
    for place in range(head + 1, len(messages), 2):
        before = bounded(messages[:place], head, history)
        known = len(found[-1]) if found else 0
        if found and _texts(before[:known]) == _texts(found[-1]):
            found[-1] = (*found[-1], *before[known:], messages[place])
        else:
            found.append((*(Message(m.role, m.content) for m in before), messages[place]))
    return found


def _texts(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]
