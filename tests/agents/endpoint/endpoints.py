"""What tests say to endpoints, and how these fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eto_gym.agents.policy import Conversation
from eto_gym.prompt import Message

PASSING = ["429", "429 after 300 ms", "500", "503", "disconnect", "reset", "close"]
FAST: dict[str, Any] = {"first_wait": 0.005, "max_wait": 0.05, "timeout": 20.0}


def talk(number: int = 0, *, key: str = "", seed: int = 0, turns: int = 0) -> Conversation:
    messages = [Message("user", f"Task {number}.")]
    for turn in range(turns):
        messages += [Message("assistant", "Action: go", train=True), Message("user", f"{turn}")]
    return Conversation(key or f"t{number}", messages, seed=seed)


def once(*faults: str) -> Callable[[dict[str, Any]], str | None]:
    """Let the first requests fail, one by each fault."""
    left = list(faults)
    return lambda body: left.pop(0) if left else None
