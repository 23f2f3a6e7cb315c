"""Preference pairs: two continuations of one prompt, the better one first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eto_gym.history import FULL, as_sampled
from eto_gym.prompt import Message


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A chosen and a rejected continuation of one conversation.

    Attributes:
        task_id: The task that both continuations come from.
        prompt: Messages that both share, up to and including the first observation that the two
            continuations answer.
        chosen: Continuation with the higher reward: assistant and user messages in turn.
        rejected: Continuation with the lower reward. One of the two may be empty: the other then
            stands by itself, as good or as bad.
        info: Where the pair comes from (rewards, policies, whether a side was cut).
        history: How much of the conversation each reply was given to; see `eto_gym.history`.
        head: Messages that precede the first observation; told only for a bounded history.
        chosen_states: The state block that was read for each reply of the chosen side, if any.
        rejected_states: The same of the rejected side.
    """

    task_id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    info: dict[str, Any] = field(default_factory=dict)
    history: str = FULL
    head: int = 0
    chosen_states: tuple[str, ...] = ()
    rejected_states: tuple[str, ...] = ()

    def as_sampled(self) -> tuple[list[tuple[Message, ...]], list[tuple[Message, ...]]]:
        """Return the conversations in which the replies of each side were sampled.

        With the history "full" each side has one: the prompt and its continuation. What is marked
        for training in the prompt is marked no longer: both sides share it, and it would cancel.
        """
        prompt = tuple(Message(message.role, message.content) for message in self.prompt)
        if self.history == FULL:
            return [(*prompt, *self.chosen)], [(*prompt, *self.rejected)]
        chosen, rejected = (
            as_sampled((*prompt, *side), self.head, self.history, states, start=len(prompt))
            for side, states in (
                (self.chosen, self.chosen_states),
                (self.rejected, self.rejected_states),
            )
        )
        return chosen, rejected
