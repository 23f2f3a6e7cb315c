"""Messages of a conversation, and the prompt that introduces a benchmark to an agent."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: "system", "user" (the environment) or "assistant" (the agent).
        content: The text.
        train: Whether a trainer may learn to produce this message. Only the agent's own turns are
            marked; the acknowledgement of the prompt and the worked example are not.
    """

    role: Role
    content: str
    train: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an agent is told before its first observation.

    Attributes:
        instruction: The rules of the benchmark and the format of a reply.
        example: One worked episode as texts (observation, reply, observation, ...), or empty.
        observation_prefix: What precedes every observation but the first; the paper's word.
    """

    instruction: str
    example: tuple[str, ...] = ()
    observation_prefix: str = "Observation: "


# Feedback that helps: with `feedback="helpful"` an environment adds a line to the answer of an
# action that came to nothing, and says why. It is told from what the agent has seen so far, so it
# gives nothing away that is hidden. Source: "ALIGN", 2025 (https://arxiv.org/abs/2505.21055), where
# an interface that explains itself raises the success of agents.

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


def nearest(
    action: str, offered: Iterable[str], *, count: int = 3, likeness: float = 0.5
) -> list[str]:
    """Return the names or actions most like what was asked for, best first.

    Args:
        action: What was asked for.
        offered: What there is.
        count: How many at most.
        likeness: How alike they must be, from 0 to 1.

    Example:
        >>> nearest("mug", ["mug 1", "desk 1"])
        ['mug 1']
    """
    return difflib.get_close_matches(action[:_SHOWN], list(offered), n=count, cutoff=likeness)


def shown(action: str) -> str:
    """Return an action as a message quotes it: one line, and no longer than it need be."""
    line = " ".join(action.split())
    return repr(line if len(line) <= _SHOWN else line[:_SHOWN] + "...")
