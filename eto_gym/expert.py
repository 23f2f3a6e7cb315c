"""What a demonstration is made of: a reply (thought and action), and the expert that gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


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
