"""Episodes that several processes share: the same file, however they are dealt or cut short."""

from __future__ import annotations

import functools
import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import random_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.agents.rollout.engine import Episode, Rollout, plan_episodes
from eto_gym.errors import EtoGymError
from eto_gym.trainers.loops.shared_play import play_shared
from eto_gym.trainers.run.process_group import ProcessGroup
from eto_gym.trajectories import PlayedTrajectory, Trajectory, TrajectoryStore
from tests.toy import CORRIDOR, make_corridor
from tests.trainers.threads import together

SPEC = RolloutSpec(
    CORRIDOR, random_policy, env_kwargs={"admissible_actions": True}, prompt_style="none", slots=3
)


def plan() -> list[Episode]:
    ids = make_corridor().unwrapped.task_set.ids  # type: ignore[attr-defined]
    return plan_episodes(ids[:5], samples=3, seed=7)


def play(path: Path, r: ProcessGroup | None = None) -> list[Trajectory]:
    return play_shared(SPEC, plan(), path=path, processes=r or ProcessGroup())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "t.jsonl"
    played = play(path)
    assert [t.key for t in played] == [episode.key for episode in plan()]
    assert {t.success for t in played} == {True, False}
    return path


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the keys of all episodes that are played, as they are begun."""
    begun: list[tuple[str, int]] = []
    original = Rollout.play

    def spy(self: Rollout, episodes: Any) -> Any:
        def noted() -> Any:
            for episode in episodes:
                begun.append(episode.key)
                yield episode

        return original(self, noted())

    monkeypatch.setattr(Rollout, "play", spy)
    return begun


@pytest.mark.parametrize("count", [1, 2, 4, 20])
def test_any_number_of_processes_plays_the_same(
    count: int, alone: Path, tmp_path: Path, played: list[tuple[str, int]]
) -> None:
    path = tmp_path / "t.jsonl"
    results = together(count, functools.partial(play, path))
    assert all(result == results[0] for result in results)
    assert results[0] == TrajectoryStore(path).load()
    assert path.read_bytes() == alone.read_bytes()
    assert list(tmp_path.iterdir()) == [path]
    assert sorted(played) == sorted(episode.key for episode in plan())


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 2)])
def test_nothing_that_is_stored_is_played_again(
    before: int,
    after: int,
    alone: Path,
    tmp_path: Path,
    played: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "t.jsonl"
    add = TrajectoryStore.add
    stored: list[tuple[str, int]] = []

    def add_few(self: TrajectoryStore, trajectory: PlayedTrajectory) -> None:
        last = f"part-{before - 1}" if before > 1 else "t.jsonl"
        if last in self.path.name and len(stored) >= 2:
            raise OSError(28, "No space left on device")
        add(self, trajectory)
        if last in self.path.name:
            stored.append(trajectory.key)

    monkeypatch.setattr(TrajectoryStore, "add", add_few)
    failed = together(before, functools.partial(play, path))
    assert all(isinstance(error, EtoGymError) for error in failed)
    assert all("could not write to" in str(error) for error in failed)
    monkeypatch.setattr(TrajectoryStore, "add", add)

    kept = {t.key for file in tmp_path.iterdir() for t in TrajectoryStore(file).load()}
    assert len(kept) >= 2
    played.clear()
    together(after, functools.partial(play, path))
    assert sorted(played) == sorted({episode.key for episode in plan()} - kept)
    assert path.read_bytes() == alone.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_in_two_files_counts_once(alone: Path, tmp_path: Path) -> None:
    """The first was killed after it took in a part, and before it removed it."""
    path = tmp_path / "t.jsonl"
    lines = alone.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[3:9]))
    (tmp_path / "t.part-1.jsonl").write_bytes(b"".join(lines[5:9]))
    (tmp_path / "t.part-7.jsonl").write_bytes(b"".join(lines[0:2]) + lines[2][:40])
    together(2, functools.partial(play, path))
    assert path.read_bytes() == alone.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def lone_policy() -> Policy:
    """Build a policy, unless this process seems to belong to a group."""
    if found := {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & set(os.environ):
        raise EtoGymError(f"found {sorted(found)}")
    return random_policy()


def test_workers_do_not_join_the_processes_of_their_parent(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EtoGymError, match="found"):
        lone_policy()
    spec = replace(SPEC, make_policy=lone_policy, workers=2)
    played = play_shared(spec, plan(), path=tmp_path / "t.jsonl", processes=ProcessGroup())
    assert played == TrajectoryStore(alone).load()


class Elsewhere:
    """A launcher that plays here, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, int]]] = []

    def play(
        self, spec: RolloutSpec, episodes: Sequence[Episode]
    ) -> Generator[PlayedTrajectory, None, None]:
        self.asked.append([episode.key for episode in episodes])
        yield from reversed(list(spec.rollout().play(episodes)))


@pytest.mark.parametrize("count", [1, 2])
def test_a_launcher_plays_for_all_processes_and_is_asked_once(
    alone: Path, tmp_path: Path, count: int
) -> None:
    launcher = Elsewhere()
    path = tmp_path / "t.jsonl"
    kept = TrajectoryStore(alone).load()[:4]
    with TrajectoryStore(path) as store:
        for trajectory in kept:
            store.add(trajectory)

    def elsewhere(r: ProcessGroup) -> Sequence[Trajectory]:
        return play_shared(SPEC, plan(), path=path, processes=r, launcher=launcher)

    for played in together(count, elsewhere):
        assert played == TrajectoryStore(alone).load()
    assert launcher.asked == [[episode.key for episode in plan()[4:]]]
    assert path.read_bytes() == alone.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.jsonl"]


def test_processes_with_other_plans_are_told(tmp_path: Path) -> None:
    def differing(r: ProcessGroup) -> Sequence[Trajectory]:
        episodes = plan()[: 5 if r.index else None]
        return play_shared(SPEC, episodes, path=tmp_path / "t.jsonl", processes=r)

    first, second = together(2, differing)
    assert isinstance(first, EtoGymError)
    assert "plans episodes that this one does not" in str(second)
