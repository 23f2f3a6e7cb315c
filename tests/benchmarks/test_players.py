"""Players side by side: all answer the recorded conversations, and all that they use is counted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.benchmarks import players
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory


def _episode(task: str, turns: int) -> Trajectory:
    messages = [Message("user", f"{task}: begin")]
    for turn in range(turns):
        messages += [Message("assistant", f"do {turn}", train=True), Message("user", f"saw {turn}")]
    return Trajectory(
        task_id=task, task_type="t", messages=tuple(messages),
        steps=tuple(Step(f"do {turn}", "saw", 0.0) for turn in range(turns)), outcome="truncated",
        reward=0.0, success=False, error=None, policy="p", env={}, sample=0, seed=0,
    )  # fmt: skip


class Contrary:
    """Says something else than what was recorded."""

    name = "contrary"

    def __init__(self, error: str | None = None) -> None:
        self.asked: list[Conversation] = []
        self.error = error

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        self.asked += conversations
        return [
            PolicyReply(f"no {c.key}", usage={"decoded_tokens": 2}, error=self.error)  # type: ignore[arg-type]
            for c in conversations
        ]

    def release(self, key: str) -> None: ...


def test_every_player_goes_on_with_what_was_recorded() -> None:
    player = Contrary()
    told, said = players.say_again(player, [_episode("a", 3), _episode("b", 1)], turns=2)
    assert said == ["no 0", "no 1", "no 0"], "b has no second reply"
    assert (told["replies"], told["decoded"]) == (3, 6)
    assert [m.content for m in player.asked[2].messages] == ["a: begin", "do 0", "saw 0"]


def test_a_reply_that_fails_ends_the_measurement() -> None:
    with pytest.raises(EtoGymError, match="turn 0: context"):
        players.say_again(Contrary("context"), [_episode("a", 1)], turns=1)


def test_no_conversation_is_read_twice() -> None:
    episodes = [_episode(str(i), 1) for i in range(7)]
    chosen = [
        episode.task_id for _, part in players._portions(episodes, [1, 4, 2]) for episode in part
    ]
    assert chosen == [episode.task_id for episode in episodes]


def test_time_in_processes_below_counts() -> None:
    """A server is a child of a child of the process that measures."""
    burn = "input()\nimport time\nwhile time.process_time() < 2: pass"
    below = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    shell = subprocess.Popen([sys.executable, "-c", below], stdin=subprocess.PIPE)
    assert shell.stdin is not None
    before = players.cpu_seconds()
    shell.stdin.write(b"\n")
    shell.stdin.flush()
    while players.cpu_seconds() - before < 0.5 and shell.poll() is None:
        time.sleep(0.01)
    assert shell.poll() is None, "what it burnt was not seen before it ended"
    shell.communicate()
