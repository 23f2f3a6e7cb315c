"""The expert protocol, and the reply (thought and action) that experts give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class Coach(Protocol):
    """An expert that can watch somebody else play, and say at each step what it would do."""

    def observe(self, action: str | None, observation: str) -> None:
        """Take in an observation and the action that led to it.

        No action (None) led to the first one, nor to what answers a reply that has none.
        """
        ...

    def advise(self) -> Reply | None:
        """Say what to do now, without taking it as done; None where it would give up."""
        ...


class Adviser:
    """Asks an environment's expert at any step of somebody else's episode.

    An expert that is a `Coach` is told of every step. Another one goes on as long as what it said
    is what is done, and is made anew where it is not.
    """

    def __init__(self, make: Callable[[], Expert]) -> None:
        """Create the adviser for one episode.

        Args:
            make: Returns an expert that can go on from where the episode has come to.
        """
        self._make = make
        self._expert: Expert | None = make()
        self._coach = self._expert if isinstance(self._expert, Coach) else None
        self._observation = ""
        self._advised: str | None = None

    def observe(self, action: str | None, observation: str) -> None:
        """Take in an observation and the action that led to it, as a `Coach` does."""
        if self._coach is not None:
            self._coach.observe(action, observation)
        elif action is not None or not self._observation:
            if action is not None and action != self._advised:
                self._expert = None
            self._observation, self._advised = observation, None

    def advise(self, info: dict[str, Any]) -> Reply | None:
        """Say what the expert would do now; None where it would give up.

        Args:
            info: What came with the last observation.
        """
        if self._coach is not None:
            return self._coach.advise()
        if self._expert is None or self._advised is not None:  # asked once more at the same step
            self._expert = self._make()
        reply = self._expert.act(self._observation, info)
        self._advised = reply.action if reply else None
        return reply


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
