"""Whole rollouts through endpoints that break."""

from __future__ import annotations

import functools
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import endpoint_policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.testing.fake_endpoint import BODIES, FakeEndpoint
from eto_gym.trajectories import Trajectory, TrajectoryStore
from tests.agents.endpoint.endpoints import FAST, PASSING
from tests.toy import CORRIDOR

pytest.importorskip("openai")


def spec(*endpoints: FakeEndpoint, workers: int = 1, **options: Any) -> RolloutSpec:
    urls = [endpoint.url for endpoint in endpoints]
    policy = functools.partial(endpoint_policy, urls, "m", **{**FAST, **options})
    return RolloutSpec(CORRIDOR, policy, prompt_style="none", slots=32, workers=workers)


def without_usage(trajectories: list[Trajectory]) -> list[Any]:
    """Leave out what faults may change: tokens, and what is known of how a reply came about."""
    return [{**t.to_json(), "usage": None, "facts": None} for t in trajectories]


class _Away:
    """Has a server go away and come back by what is asked, however long that takes."""

    SOME = 12

    def __init__(self, server: FakeEndpoint, choose: Callable[[dict[str, Any]], Any]) -> None:
        self.server, self.choose, self.lock = server, choose, threading.Lock()
        self.times = self.answers = self.others = 0

    def asked(self, body: dict[str, Any]) -> Any:
        """Choose the fault of a request to the server; some end it."""
        with self.lock:
            if self.server.ready.is_set():
                self.answers += 1
                if self.answers % self.SOME == 0:
                    self.times += 1
                    self.server.stop()
        return self.choose(body)

    def meanwhile(self, body: dict[str, Any]) -> Any:
        """Choose the fault of a request to another server; some begin it anew."""
        with self.lock:
            if not self.server.ready.is_set():
                self.others += 1
                if self.others % self.SOME == 0:
                    self.server.start()
        return self.choose(body)


def test_a_rollout_through_every_fault_loses_nothing(tmp_path: Path) -> None:
    episodes = plan_episodes([f"door-{i % 4}/{i}" for i in range(24)], samples=4, seed=5)
    with FakeEndpoint() as well:
        expected = collect(spec(well, temperature=1.0), episodes)
    assert len({t.success for t in expected}) == 2
    chance = random.Random(1)
    faults = itertools.cycle([*PASSING, *sorted(BODIES)])

    def choose(body: dict[str, Any]) -> str | None:
        return next(faults) if chance.random() < 0.3 else None

    store = TrajectoryStore(tmp_path / "t.jsonl")
    with FakeEndpoint() as a, FakeEndpoint() as b, FakeEndpoint() as flapping:
        away = _Away(flapping, choose)
        flapping.choose, a.choose, b.choose = away.asked, away.meanwhile, away.meanwhile
        playing = spec(a, b, flapping, temperature=1.0, timeout=60.0, attempts=1000)
        results = collect(playing, episodes, store=store)
        assert min(len(a.requests), len(b.requests)) > 25
    assert away.times > 1, "it is not asked again when it is back"
    assert without_usage(results) == without_usage(expected)
    assert Counter(t.key for t in store.load()) == Counter(e.key for e in episodes)
    assert sum(t.usage["requests"] - len(t.steps) for t in results) > 50


def test_hopeless_episodes_are_errors_and_are_played_again(
    fake: FakeEndpoint, tmp_path: Path
) -> None:
    episodes = plan_episodes([f"door-{i % 4}/{i}" for i in range(24)], samples=2, seed=5)
    hopeless = {"door 0": "context", "door 1": "500", "door 3": "504"}

    def choose(body: dict[str, Any]) -> str | None:
        task = body["messages"][0]["content"].partition("open ")[2].rstrip(".")
        # From the second turn on: an episode may fail in its middle.
        return hopeless.get(task) if len(body["messages"]) > 1 else None

    fake.choose = choose
    fake.answer = lambda body: "Action: go"
    store = TrajectoryStore(tmp_path / "t.jsonl")
    playing = functools.partial(spec, fake, attempts=2, timeout=60.0)
    results = collect(playing(), episodes, store=store)
    assert [t.key for t in results] == [e.key for e in episodes]
    assert Counter((t.task_type, t.error) for t in results) == {
        ("door-0", "context"): 12,
        ("door-1", "policy"): 12,
        ("door-2", None): 12,
        ("door-3", "timeout"): 12,
    }
    fake.choose = lambda body: None
    again = collect(playing(workers=2), episodes, store=store)
    # Who ran out of room has failed, and is not asked again.
    assert {t.task_type for t in again if t.failed_to_run} == {"door-0"}
    done = [t for t in results if t.scored]
    assert [t for t in again if t.task_type in ("door-0", "door-2")] == done
    assert Counter(t.key for t in store.load()) == {
        episode.key: 1 if episode.task_id.startswith(("door-0", "door-2")) else 2
        for episode in episodes
    }
