"""Messages of a conversation, and the prompt that introduces a benchmark to an agent."""

from __future__ import annotations

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
