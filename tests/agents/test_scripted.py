from __future__ import annotations

from typing import Any

import pytest

from eto_gym.agents.policy import Conversation
from eto_gym.agents.scripted import ExpertPolicy, RandomPolicy, ReplayPolicy
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory

RULES = (Message("user", "rules"), Message("assistant", "OK"))


def turn(*replies: str, key: str = "a", seed: int = 0, **info: Any) -> Conversation:
    messages = [*RULES, Message("user", "start")]
    for reply in replies:
        messages += [Message("assistant", reply, train=True), Message("user", "so")]
    return Conversation(key, messages, seed=seed, info=info)


def test_random_policy_depends_on_seed_and_turn_alone() -> None:
    actions = [f"go {i}" for i in range(50)]
    one = RandomPolicy()
    batch = [turn(key=str(i), seed=i, admissible_actions=actions) for i in range(20)]
    replies = one.act(batch)
    assert replies == [RandomPolicy().act([c])[0] for c in batch]
    assert len({r.text for r in replies}) > 10
    first, second = (
        one.act([turn(*said, seed=3, admissible_actions=actions)])[0]
        for said in ((), ("Action: look",))
    )
    assert first != second
    action = first.text.splitlines()[1].removeprefix("Action: ")
    assert action in actions
    assert action in first.text.splitlines()[0]


def test_random_policy_says_what_it_needs() -> None:
    with pytest.raises(EtoGymError, match="admissible_actions=True"):
        RandomPolicy().act([turn()])
    assert RandomPolicy().act([turn(admissible_actions=[])])[0].error == "policy"


def test_replay_repeats_the_episode_and_then_gives_up() -> None:
    said = ["Action: a", "Action: b"]
    recorded = Trajectory(
        task_id="t1",
        task_type="toy",
        messages=tuple(turn(*said).messages[:-1]),
        steps=tuple(Step(text[-1], "so", 0.0) for text in said),
        outcome="terminated",
        reward=0.0,
        success=False,
    )
    policy = ReplayPolicy([recorded])
    for _ in range(2):  # the second time as another episode under the same key
        for i in range(3):
            reply = policy.act([turn(*said[:i], task_id="t1")])[0]
            assert (reply.text, reply.error) == ((said[i], None) if i < 2 else ("", "policy"))
        policy.release("a")
    with pytest.raises(EtoGymError, match="no trajectory of task 't2'"):
        policy.act([turn(task_id="t2")])


def test_expert_policy_needs_the_environment() -> None:
    with pytest.raises(EtoGymError, match=r"Conversation\.env"):
        ExpertPolicy().act([turn()])
    ExpertPolicy().release("unknown")
