"""Preference pairs: two continuations of one prompt, the better one first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eto_gym.prompt import Message


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A chosen and a rejected continuation of one conversation.

    Attributes:
        task_id: The task that both continuations come from.
        prompt: Messages that both share, up to and including the first observation that the two
            continuations answer.
        chosen: Continuation with the higher reward: assistant and user messages in turn.
        rejected: Continuation with the lower reward.
        info: Where the pair comes from (rewards, policies, whether a side was cut).
    """

    task_id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    info: dict[str, Any] = field(default_factory=dict)
