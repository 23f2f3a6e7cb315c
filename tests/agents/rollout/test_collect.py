"""Collecting episodes: resuming, processes that die, and disks that are full."""

from __future__ import annotations

import dataclasses
import errno
import functools
import logging
import os
import re
import signal
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from eto_gym import EtoGymError
from eto_gym.agents.rollout.collect import RolloutSpec, _Progress, collect, gather, played_out
from eto_gym.agents.rollout.engine import RetryPolicy, plan_episodes
from eto_gym.agents.rollout.local_launcher import LocalLauncher, play_requested
from eto_gym.registration import registered_ids
from eto_gym.trajectories import EncodedTrajectory, Trajectory, TrajectoryStore
from tests.agents.evaluation.test_evaluation import episode
from tests.agents.rollout.coin import TASKS, CoinPolicy
from tests.toy import CORRIDOR


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


def test_who_ran_out_of_room_has_failed_and_gets_no_second_try(tmp_path: Path) -> None:
    episodes = plan_episodes(TASKS[:3], seed=3)
    store = TrajectoryStore(tmp_path / "t.jsonl")
    first = collect(corridor_spec(CoinPolicy, slots=1), episodes, store=store)
    store = TrajectoryStore(tmp_path / "full.jsonl")
    store.add(dataclasses.replace(first[0], outcome="error", error="context", success=False))
    assert collect(corridor_spec(CoinPolicy, slots=1), episodes, store=store)[0].error == "context"
    assert [t.key for t in store.load()] == [e.key for e in episodes]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "the seed 1"),
        ({"policy": "another"}, "the policy 'another'"),
        ({"reward": 1e308}, "the reward 1e\\+308"),
        ({"messages": ()}, "and 0 replies"),
    ],
)
def test_what_is_stored_but_was_not_planned_is_played_again(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    reason: str,
) -> None:
    episodes = plan_episodes(TASKS[:3], seed=3)
    spec = corridor_spec(CoinPolicy, policy_name=CoinPolicy().name)
    played = collect(spec, episodes)
    store = TrajectoryStore(tmp_path / "t.jsonl")
    with store:
        for trajectory in (played[0], dataclasses.replace(played[1], **change), played[2]):
            store.add(trajectory)
    assert collect(spec, episodes, store=store) == played
    (warning,) = (r.getMessage() for r in caplog.records if "played again" in r.getMessage())
    assert re.search(f"{re.escape(TASKS[1])}#0 .*{reason}", warning)
    lines = store.path.read_bytes().count(b"\n")
    assert lines == 4, "the rightly stored ones are kept, and nothing is taken out of the file"


def test_another_benchmarks_records_are_played_again() -> None:
    (episode_,) = plan_episodes(["a"], seed=3)
    for env_id in registered_ids():
        env = env_id.rpartition("/")[2].partition("-")[0]
        for benchmark in ("alfworld", "WebShop", "scienceworld"):
            stored = Trajectory(
                "a", "", (), (), "terminated", 0.0, False,
                seed=episode_.seed, env={"benchmark": benchmark},
            )  # fmt: skip
            spec = RolloutSpec(env_id, CoinPolicy)
            kept = played_out(spec, [episode_], {stored.key: stored})
            assert bool(kept) == (benchmark.lower() == env.lower())


def test_collect_in_processes_equals_collect_in_one() -> None:
    episodes = plan_episodes(TASKS, seed=4)
    alone = collect(corridor_spec(CoinPolicy), episodes)
    assert collect(corridor_spec(CoinPolicy, workers=2, slots=6), episodes) == alone


def test_what_processes_store_is_what_one_stores(tmp_path: Path) -> None:
    episodes = plan_episodes(TASKS, seed=4)
    files = []
    for name, launcher in [("here", None), ("there", LocalLauncher(always_spawn=True))]:
        store = TrajectoryStore(tmp_path / name)
        played = gather(corridor_spec(CoinPolicy), episodes, store=store, launcher=launcher)
        assert [t.key for t in played] == [e.key for e in episodes]
        assert {type(t) for t in played} == {EncodedTrajectory if launcher else Trajectory}
        files.append(sorted(store.path.read_bytes().splitlines()))
    assert files[0] == files[1]


@pytest.mark.parametrize(("slots", "attempts", "ahead"), [(None, 3, 16), (None, 1, 1), (1, 3, 1)])
def test_a_worker_asks_ahead_only_for_what_it_may_lose(
    slots: int | None, attempts: int, ahead: int
) -> None:
    episodes = deque(plan_episodes(TASKS, seed=4))
    said: list[Any] = []
    held = 0  # handed and not returned

    def send(message: Any) -> None:
        nonlocal held
        said.append(message)
        held -= not isinstance(message, int)

    def receive() -> list[Any]:
        nonlocal held
        asked = [message for message in said if isinstance(message, int)]
        assert set(asked) == {ahead}
        handed = [episodes.popleft() for _ in range(min(ahead, len(episodes)))]
        held += len(handed)
        assert held <= (slots or 4) + (ahead if ahead > 1 else 0) + ahead // 2
        return handed

    spec = corridor_spec(CoinPolicy, slots=4, retry=RetryPolicy(attempts=attempts))
    play_requested(spec, slots, send, receive)
    played = [message for message in said if not isinstance(message, int)]
    assert sorted(t.key for t in played) == sorted((task, 0) for task in TASKS)


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


class Poisoned(CoinPolicy):
    """Kills its process whenever it is asked about one task."""

    def act(self, conversations: Any) -> Any:
        if any(c.info["task_id"] == TASKS[5] for c in conversations):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().act(conversations)


def test_an_episode_that_kills_its_worker_takes_no_other_with_it() -> None:
    episodes = plan_episodes(TASKS, seed=4)
    spec = corridor_spec(Poisoned, workers=2, slots=8, retry=RetryPolicy(attempts=2))
    results = collect(spec, episodes)
    assert [t.task_id for t in results if t.error] == [TASKS[5]]
    assert results[5].error == "worker"
    plain = collect(corridor_spec(CoinPolicy), episodes)
    assert [t for t in results if not t.error] == [t for t in plain if t.task_id != TASKS[5]]


class Stillborn(CoinPolicy):
    """Kills its process before it can play."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_die_before_they_play_stop_the_run() -> None:
    with pytest.raises(EtoGymError, match="exit code -9"):
        collect(corridor_spec(Stillborn, workers=2), plan_episodes(TASKS))


def test_a_full_disk_is_told_and_leaves_a_file_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = plan_episodes(TASKS, seed=3)
    store = TrajectoryStore(tmp_path / "t.jsonl")
    room = 9000  # bytes: a few episodes, and a part of the next

    def write(fd: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real_write(fd, data[:room])
        room -= written
        return written

    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("eto_gym.trajectories.store.os.write", write)
        with pytest.raises(EtoGymError, match=r"No space left on device.* of 24 episodes"):
            collect(corridor_spec(CoinPolicy), episodes, store=store)
    kept = store.load(strict=True)
    assert 0 < len(kept) < 24
    assert store.path.read_bytes().endswith(b"\n"), "half a record was left"
    again = collect(corridor_spec(CoinPolicy), episodes, store=store)
    assert again == collect(corridor_spec(CoinPolicy), episodes)
    assert len(store.load(strict=True)) == 24, "an episode was stored twice"


def test_progress_tells_success_errors_and_speed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eto_gym.progress.FIRST_LINE", 0.001)  # says something at any speed
    broken = functools.partial(CoinPolicy, fail_on=TASKS[2])
    with caplog.at_level(logging.INFO, logger="eto_gym"):
        results = collect(corridor_spec(broken), plan_episodes(TASKS, seed=3), progress="corridor")
    rate = sum(t.success for t in results) / 23
    first, *_, last = [r.getMessage() for r in caplog.records if r.name == "eto_gym.progress"]
    assert f"corridor: episode 24/24, success {rate:.3f}, policy errors 1, " in last
    assert "ep/h" in last
    assert first.startswith("corridor: episode ")


def test_a_run_that_goes_on_claims_no_success_rate() -> None:
    """Successes end first: until all are over, what is open is counted beside them."""
    won, lost = (episode(f"t{i}", i == 0) for i in range(2))
    shown = _Progress(None, total=3, done=())
    shown.add(won)
    assert shown._text().startswith("success 1, failure 0, open 2, ")
    shown.add(lost)
    assert shown._text().startswith("success 1, failure 1, open 1, ")
    shown.add(dataclasses.replace(lost, outcome="error", error="timeout"))
    assert shown._text().startswith("success 0.500, timeout errors 1, ")
