"""A policy for the corridor that replies by the episode's seed, and fails where it is told to."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from eto_gym.agents.policy import Conversation, PolicyReply

TASKS = [f"door-{i % 4}/{i}" for i in range(24)]


class CoinPolicy:
    """Goes or opens by the episode's seed and turn; notes batch sizes and what was released."""

    name = "coin"

    def __init__(self, *, fail_on: str = "", die_in: str = "") -> None:
        self.fail_on, self.die_in = fail_on, die_in
        self.batches: list[int] = []
        self.live: set[str] = set()

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        self.batches.append(len(conversations))
        replies = []
        for conversation in conversations:
            self.live.add(conversation.key)
            task = conversation.info["task_id"]
            if self.die_in and task == self.die_in and not Path("died").exists():
                Path("died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if task == self.fail_on:
                raise RuntimeError("cannot answer")
            turn = sum(m.train for m in conversation.messages)
            word = "open" if (conversation.seed >> turn) & 1 else "go"
            replies.append(PolicyReply(f"Action: {word}", usage={"decoded_tokens": 2}))
        return replies

    def release(self, key: str) -> None:
        self.live.discard(key)
