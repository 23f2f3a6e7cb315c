"""Everything fails now and then, and yet every episode is accounted for once."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import gymnasium as gym

from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect, latest
from eto_gym.agents.rollout.engine import RetryPolicy, plan_episodes
from eto_gym.conversation import parse_reply
from eto_gym.testing.faults import NONSENSE, FaultRates, FaultyEnv, FaultyPolicy
from eto_gym.trajectories import ErrorKind, Trajectory, TrajectoryStore
from tests.agents.rollout.coin import TASKS, CoinPolicy
from tests.toy import make_corridor

FAULTY = "tests.agents.rollout.test_faults:FaultyCorridor-v0"
RATES = FaultRates(
    kill=0.005,
    refuse=0.02,
    give_up=0.02,
    no_reply=0.02,
    nonsense=0.1,
    engine=0.01,
    hang=0.002,
    hang_s=4.0,
)


def make_faulty_corridor(**kwargs: bool) -> gym.Env[str, str]:
    env = make_corridor()
    return FaultyEnv(env, replace(RATES, kill=0.0)) if kwargs.get("faults") else env


gym.register("FaultyCorridor-v0", entry_point=make_faulty_corridor, disable_env_checker=True)


def make_policy(*, faults: bool) -> Policy:
    return FaultyPolicy(CoinPolicy(), RATES if faults else FaultRates(nonsense=RATES.nonsense))


def plain(trajectory: Trajectory) -> Trajectory:
    usage = {name: n for name, n in trajectory.usage.items() if name != "failed_attempts"}
    return replace(trajectory, usage=usage)


def test_every_episode_is_accounted_for_once(tmp_path: Path) -> None:
    episodes = plan_episodes(TASKS, samples=12, seed=1)

    def spec(*, faults: bool, workers: int) -> RolloutSpec:
        kinds: frozenset[ErrorKind] = frozenset({"environment", "worker"})
        return RolloutSpec(
            FAULTY,
            functools.partial(make_policy, faults=faults),
            env_kwargs={"faults": faults},
            prompt_style="none",
            slots=8,
            workers=workers,
            retry=RetryPolicy(attempts=3, kinds=kinds),
            step_timeout=1.0 if faults else None,
        )

    expected = {t.key: t for t in collect(spec(faults=False, workers=1), episodes)}
    assert sum(t.steps[0].action is None for t in expected.values()) > 10
    store = TrajectoryStore(tmp_path / "t.jsonl")
    for _ in range(20):
        played = collect(spec(faults=True, workers=2), episodes, store=store)
        assert [t.key for t in played] == [e.key for e in episodes]
        if not any(t.failed_to_run for t in played):
            break
    stored = store.load(strict=True)
    scored = Counter(t.key for t in stored if not t.failed_to_run)
    assert set(scored) == {e.key for e in episodes}
    assert set(scored.values()) == {1}
    errors = Counter(t.error for t in stored if t.failed_to_run)
    assert {"timeout", "format"} <= set(errors), "the faults were not injected"
    assert sum(t.usage.get("failed_attempts", 0) for t in stored) > 0
    assert {key: plain(t) for key, t in latest(stored).items()} == expected


def test_nonsense_holds_no_action() -> None:
    assert [parse_reply(text) for text in NONSENSE] == [None] * len(NONSENSE)
