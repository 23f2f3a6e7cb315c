"""Tells before anything is played whether conversations can be rendered, and have room."""

from __future__ import annotations

from collections.abc import Sequence

from eto_gym.agents.models.codec import ChatCodec
from eto_gym.errors import EtoGymError
from eto_gym.history import check_room
from eto_gym.prompt import Message


def check_prompt(
    codec: ChatCodec, head: Sequence[Message], history: str, *, context: int | None
) -> None:
    """Refuse what would fail at the first replies: a template's roles, a prompt without room.

    Args:
        codec: Turns conversations into tokens.
        head: The messages that precede the first observation.
        history: How much of a conversation is read.
        context: Longest conversation in tokens; None where it is not known.

    Raises:
        EtoGymError: The chat template rejects the roles of a conversation; the prompt alone fills
            the context; or the exchanges of `history` cannot fit, however short they are.
    """
    talk = [*head, Message("user", "a")]
    lengths = []
    for _ in range(3):
        lengths.append(len(codec.generation_prompt(talk)))
        talk += [Message("assistant", "a"), Message("user", "a")]
    before, first, second = lengths
    if context is not None and before >= context:
        raise EtoGymError(
            f"the prompt leaves no room for a task and a reply: what precedes the first "
            f"observation takes {before:,} tokens, and a conversation may have {context:,}. Take "
            "a shorter --prompt-style (instruction, none) or a larger --max-context"
        )
    shortest = max(1, min(first - before, second - first))
    check_room(history, context, before=before, exchange=shortest)
