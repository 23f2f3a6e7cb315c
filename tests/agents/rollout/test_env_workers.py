"""Rollouts whose environments are in worker processes, while the policy stays here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest

from eto_gym import EtoGymError, UnknownNameError, get_state
from eto_gym.agents.policies import expert_policy, random_policy
from eto_gym.agents.policy import Conversation, Policy, PolicyReply
from eto_gym.agents.rollout.engine import Episode, RetryPolicy, Rollout, plan_episodes
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.conversation import ConversationEnv
from eto_gym.testing import text_env
from eto_gym.testing.faults import FaultRates, FaultyPolicy
from eto_gym.trajectories import Trajectory
from eto_gym.vector import EnvMaker
from tests.agents.rollout.coin import TASKS, CoinPolicy
from tests.toy import CORRIDOR, make_corridor
from tests.vector.support import FRAGILE


def talkative() -> Policy:
    """Random play with a reply without an action now and then."""
    return FaultyPolicy(random_policy(), FaultRates(nonsense=0.2))


def played(spec: RolloutSpec, episodes: Sequence[Episode]) -> dict[Any, Trajectory]:
    return {trajectory.key: trajectory for trajectory in spec.rollout().play(episodes)}


@pytest.mark.usefixtures("warm_engine")
@pytest.mark.parametrize("env_id", ["ETO/ALFWorld-v0", "ETO/WebShop-v0", "ETO/ScienceWorld-v0"])
def test_worker_processes_change_no_trajectory(env_id: str) -> None:
    science = "ScienceWorld" in env_id
    if science:
        pytest.importorskip("scienceworld")
    kwargs = {"admissible_actions": True, "max_episode_steps": 4 if science else 8}
    maker = EnvMaker(env_id, kwargs)
    env = ConversationEnv(maker(), prompt_style="none")
    tasks = text_env(env).task_set.ids[: 2 if science else 5]
    episodes = plan_episodes(tasks, samples=1 if science else 2, seed=3)
    _, info = env.reset(options={"task": tasks[0]})
    env.step("I cannot decide.")
    env.step(f"Action: {info['admissible_actions'][0]}")
    episodes.append(Episode(tasks[0], 7, 1, get_state(env)))
    spec = RolloutSpec(env_id, talkative, kwargs, prompt_style="none", slots=3)
    expected = played(spec, episodes)
    env.close()  # only now, so that its engine need not be started again
    assert sorted(expected) == sorted(episode.key for episode in episodes)
    assert {t.error for t in expected.values()} == {None}
    assert any(step.action is None for t in expected.values() for step in t.steps)
    assert expected[tasks[0], 7].messages[:3] == env.conversation[:3]
    assert played(replace(spec, env_workers=1 if science else 2), episodes) == expected


class Guide:
    """Opens the right door, but says a word of its own on some tasks."""

    name = "guide"

    def __init__(self, words: dict[str, str] | None = None) -> None:
        self.words = words or {}

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        return [PolicyReply(f"Action: {self._word(c)}") for c in conversations]

    def release(self, key: str) -> None:
        pass

    def _word(self, conversation: Conversation) -> str:
        assert conversation.env is None
        task = conversation.info["task_id"]
        turn = sum(m.train for m in conversation.messages)
        return self.words.get(task) or ("open" if turn == int(task[5]) else "go")


def test_processes_that_hang_or_die_cost_the_guilty_their_attempts_and_others_nothing() -> None:
    rollout = Rollout(
        EnvMaker(FRAGILE),
        Guide({TASKS[1]: "sleep", TASKS[2]: "die"}),
        slots=4,
        prompt_style="none",
        retry=RetryPolicy(attempts=2),
        env_workers=2,
        step_timeout=1.0,
    )
    begun = time.monotonic()
    results = list(rollout.play(plan_episodes(TASKS[:10])))
    assert time.monotonic() - begun < 50, "a step was waited for until its end"
    by_task = {t.task_id: t for t in results}
    assert sorted(by_task) == sorted(TASKS[:10])
    assert len(results) == 10
    errors = {task: t.error for task, t in by_task.items() if t.error}
    assert errors == {TASKS[1]: "timeout", TASKS[2]: "environment"}
    assert by_task[TASKS[1]].steps[-1].action == "sleep"
    assert {by_task[TASKS[i]].usage["failed_attempts"] for i in (1, 2)} == {1}
    lost = [t for t in results if t.error is None and t.usage.get("failed_attempts")]
    assert {TASKS[0], TASKS[3]} <= {t.task_id for t in lost}, "they shared a process"
    assert all(t.success for t in results if t.error is None)


class Slow(Guide):
    """Answers each conversation by itself, after a while."""

    def __init__(self, words: dict[str, str]) -> None:
        super().__init__(words)
        self.pool = ThreadPoolExecutor(4)

    def submit(self, conversation: Conversation) -> Future[PolicyReply]:
        return self.pool.submit(self._reply, conversation)

    def _reply(self, conversation: Conversation) -> PolicyReply:
        time.sleep(0.05)
        return self.act([conversation])[0]


def test_replies_are_taken_up_while_an_environment_steps() -> None:
    rollout = Rollout(
        EnvMaker(FRAGILE),
        Slow({TASKS[0]: "sleep"}),
        slots=2,
        prompt_style="none",
        env_workers=2,
    )
    begun = time.monotonic()
    playing = rollout.play(plan_episodes(TASKS[:3]))
    assert {next(playing).task_id, next(playing).task_id} == set(TASKS[1:3])
    playing.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 40, "the replies waited for the step"


def test_what_the_caller_got_wrong_is_said_at_once() -> None:
    with pytest.raises(EtoGymError, match="'expert' looks into its environments, which env_work"):
        Rollout(make_corridor, expert_policy(), env_workers=1)
    with pytest.raises(EtoGymError, match="which step_timeout puts into other"):
        Rollout(make_corridor, FaultyPolicy(expert_policy(), FaultRates()), step_timeout=1.0)
    with pytest.raises(EtoGymError, match=r"picklable: a module's function, or .*EnvMaker"):
        Rollout(lambda: make_corridor(), CoinPolicy(), env_workers=1)
    with pytest.raises(ValueError, match="env_workers >= 0"):
        Rollout(make_corridor, CoinPolicy(), env_workers=-1)
    rollout = Rollout(EnvMaker(CORRIDOR), CoinPolicy(), prompt_style="none", env_workers=1)
    with pytest.raises(UnknownNameError, match="door"):
        list(rollout.play(plan_episodes(["no-such-task"])))


def test_a_snapshot_of_something_else_is_refused() -> None:
    env: gym.Env[str, str] = make_corridor()
    env.reset(options={"task": TASKS[0]})
    rollout = Rollout(make_corridor, CoinPolicy(), prompt_style="none")
    with pytest.raises(EtoGymError, match="snapshot of a ConversationEnv"):
        list(rollout.play([Episode(TASKS[0], 0, 0, get_state(env))]))
