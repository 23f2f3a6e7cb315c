"""The expert protocol, and the reply (thought and action) that experts give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eto_gym.errors import EtoGymError


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn of an agent: what it thinks, and the bare action that it takes."""

    thought: str
    action: str

    def __str__(self) -> str:
        """Write the reply as the agent would: two lines, `Thought: ...` and `Action: ...`."""
        return f"Thought: {self.thought}\nAction: {self.action}"


class Expert(Protocol):
    """A scripted demonstrator of one benchmark, for one episode at a time.

    Call `act` with the observation and info that `reset` returned, then with those of every step.
    """

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        """Return the next reply, or None when the expert has given up on the episode."""
        ...


class RandomPlayer:
    """Takes an admissible action at random each turn; gives up where nothing is admissible."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Create the player.

        Args:
            rng: Draws the actions.
        """
        self._rng = rng

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        """Return the next reply.

        Raises:
            EtoGymError: `info` lists no admissible actions.
        """
        actions = info.get("admissible_actions")
        if actions is None:
            raise EtoGymError(
                "a random player needs info['admissible_actions']: make the environment with "
                "admissible_actions=True"
            )
        if not actions:
            return None
        action = actions[int(self._rng.integers(len(actions)))]
        return Reply(f"I will try to {action}.", action)
