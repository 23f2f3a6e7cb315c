"""The rollout engine and the collection of episodes."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from eto_gym import EngineError, EtoGymError, UnknownNameError
from eto_gym.agents.collect import RolloutSpec, collect
from eto_gym.agents.policies import expert_policy
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.agents.rollout import Episode, RetryPolicy, Rollout, plan_episodes
from eto_gym.trajectories import Trajectory, TrajectoryStore
from tests.toy import CORRIDOR, CorridorEnv, make_corridor

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


def play(policy: Any, slots: int, episodes: Sequence[Episode]) -> dict[Any, Trajectory]:
    rollout = Rollout(make_corridor, policy, slots=slots, prompt_style="none")
    return {trajectory.key: trajectory for trajectory in rollout.play(episodes)}


def test_results_do_not_depend_on_slots_or_order() -> None:
    episodes = plan_episodes(TASKS, samples=3, seed=1)
    one = play(CoinPolicy(), 1, episodes)
    assert len(one) == len(episodes) == 72
    assert one == play(CoinPolicy(), 7, episodes) == play(CoinPolicy(), 500, episodes[::-1])
    assert len({t.success for t in one.values()}) == 2
    assert one[TASKS[0], 0].usage["decoded_tokens"] == 2 * len(one[TASKS[0], 0].steps)


def test_slots_are_refilled_at_once() -> None:
    policy = CoinPolicy()
    play(policy, 8, plan_episodes(TASKS, seed=2))
    assert policy.batches[0] == 8
    busy = [size for size in policy.batches[:-8] if size == 8]
    assert len(busy) >= len(policy.batches[:-8]), "a slot waited although tasks were left"
    assert not policy.live, "an episode was never released"


def test_expert_policy_solves_the_toy() -> None:
    results = play(expert_policy(), 5, plan_episodes(TASKS))
    assert all(t.success and t.reward == 1.0 for t in results.values())
    sample = results["door-2/2", 0]
    assert [s.action for s in sample.steps] == ["go", "go", "open"]
    assert (sample.policy, sample.env["benchmark"]) == ("expert", "corridor")


def test_a_policy_failure_is_recorded_and_spares_the_others() -> None:
    policy = CoinPolicy(fail_on=TASKS[3])
    results = play(policy, 1, plan_episodes(TASKS[:6]))
    assert [t.error for t in results.values()] == [None, None, None, "policy", None, None]
    assert not results[TASKS[3], 0].success


def test_a_policy_that_always_fails_stops_the_rollout() -> None:
    class Broken(CoinPolicy):
        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            raise RuntimeError("out of memory")

    with pytest.raises(EtoGymError, match="out of memory"):
        play(Broken(), 2, plan_episodes(TASKS))


class BreakingEnv(CorridorEnv):
    """Breaks on one task, in `reset` or in `step`."""

    def _reset(self, task: Any, options: Any) -> str:
        if task.id == TASKS[1]:
            raise EngineError("no start")
        return super()._reset(task, options)

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        if self.task.id == TASKS[2]:
            raise RuntimeError("engine broke")
        return super()._step(action)


def test_an_environment_failure_is_recorded_and_its_environment_replaced() -> None:
    made = []

    def make() -> gym.Env[str, str]:
        made.append(BreakingEnv(max_episode_steps=8))
        return made[-1]

    rollout = Rollout(
        make, expert_policy(), slots=1, prompt_style="none", retry=RetryPolicy(attempts=1)
    )
    results = list(rollout.play(plan_episodes(TASKS[:4])))
    assert [t.error for t in results] == [None, "environment", "environment", None]
    assert len(made) == 3


def test_an_unknown_task_is_the_callers_error() -> None:
    with pytest.raises(UnknownNameError, match="door"):
        play(CoinPolicy(), 2, plan_episodes(["no-such-task"]))


def corridor_spec(make_policy: Any, **kwargs: Any) -> RolloutSpec:
    return RolloutSpec(CORRIDOR, make_policy, prompt_style="none", **kwargs)


def test_collect_resumes_and_retries_errors(tmp_path: Path) -> None:
    episodes = plan_episodes(TASKS[:6], seed=3)
    store = TrajectoryStore(tmp_path / "t.jsonl")
    broken = functools.partial(CoinPolicy, fail_on=TASKS[2])
    first = collect(corridor_spec(broken, slots=1), episodes[:4], store=store)
    assert [t.error for t in first] == [None, None, "policy", None]
    again = collect(corridor_spec(CoinPolicy, slots=1), episodes, store=store)
    assert [t.key for t in again] == [e.key for e in episodes]
    assert not any(t.failed_to_run for t in again)
    assert [t.key[0] for t in store.load()] == [*TASKS[:4], TASKS[2], TASKS[4], TASKS[5]]


def test_collect_in_processes_equals_collect_in_one() -> None:
    episodes = plan_episodes(TASKS, seed=4)
    alone = collect(corridor_spec(CoinPolicy), episodes)
    assert collect(corridor_spec(CoinPolicy, workers=2, slots=6), episodes) == alone


def test_a_killed_worker_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    episodes = plan_episodes(TASKS, seed=4)
    dying = functools.partial(CoinPolicy, die_in=TASKS[5])
    results = collect(corridor_spec(dying, workers=2, slots=4), episodes)
    assert (tmp_path / "died").exists()
    assert results == collect(corridor_spec(CoinPolicy), episodes)


def test_a_policy_that_cannot_be_built_is_a_fatal_error() -> None:
    broken = functools.partial(CoinPolicy, no_such_option=1)  # type: ignore[call-arg]
    with pytest.raises(EtoGymError, match="no_such_option"):
        collect(corridor_spec(broken, workers=2), plan_episodes(TASKS))


def test_a_fatal_error_in_a_worker_reaches_the_caller() -> None:
    episodes = plan_episodes(["no-such-task", "no-such-door"])  # either process may be first
    with pytest.raises(EtoGymError, match="no-such-"):
        collect(corridor_spec(CoinPolicy, workers=2), episodes)
