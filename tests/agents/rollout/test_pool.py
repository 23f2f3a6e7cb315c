"""The pool of workers, with workers that are told when to die: no process, no clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from eto_gym.agents.rollout.engine import Episode, plan_episodes
from eto_gym.agents.rollout.local_launcher import Message, Worker, WorkerPool, _Process
from eto_gym.agents.rollout.spec import RolloutSpec, failed_episode
from eto_gym.errors import EtoGymError
from tests.toy import CORRIDOR

EPISODES = plan_episodes([f"door-{i % 4}/{i}" for i in range(6)])


class Scripted:
    """Says what it is told to, one word after another, and then dies."""

    def __init__(self, words: str, *, alone: bool) -> None:
        self.alone = alone
        self.playing: dict[tuple[str, int], Episode] = {}
        self._words = iter(words)
        self._over = False

    @property
    def finished(self) -> bool:
        return self._over and not self.playing

    def receive(self) -> Sequence[Message]:
        word = next(self._words, "die")
        if word == "a":  # ask
            return [1]
        if word in "pf" and self.playing:  # play what it has, and fail for good
            played: list[Message] = [
                failed_episode(e, "environment") for e in self.playing.values()
            ]
            return [*played, "no room"] if word == "f" else played
        raise EOFError

    def hand(self, episodes: Sequence[Episode]) -> None:
        self._over = not episodes
        self.playing.update((episode.key, episode) for episode in episodes)

    def stop(self) -> str:
        return "it was told to"


class Pool(WorkerPool):
    """Makes its workers by a list of what they say; the last says what all others do."""

    def __init__(self, workers: int, *scripts: str) -> None:
        super().__init__(RolloutSpec(CORRIDOR, lambda: None, workers=workers), EPISODES)  # type: ignore[arg-type, return-value]
        self._scripts = list(scripts)

    def new_worker(self, *, alone: bool) -> Worker:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        return Scripted(script, alone=alone)

    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        return list(workers)


def test_workers_that_die_together_before_they_play_do_not_end_the_run() -> None:
    died_with_their_machine = [""] * 5
    pool = Pool(6, *died_with_their_machine, "ap" * len(EPISODES))
    played = [trajectory.key for trajectory in pool.trajectories()]
    assert sorted(played) == sorted(episode.key for episode in EPISODES)


@pytest.mark.parametrize("workers", [1, 6])
def test_workers_that_die_one_after_another_in_a_place_end_it(workers: int) -> None:
    with pytest.raises(EtoGymError, match=r"^3 rollout processes in a row died before .*told to"):
        list(Pool(workers, "").trajectories())


def test_a_worker_that_has_asked_begins_the_count_anew() -> None:
    pool = Pool(1, "", "", "ap", "", "", "ap" * len(EPISODES))
    assert len(list(pool.trajectories())) == len(EPISODES)


def test_what_was_played_comes_out_before_a_failure_is_told() -> None:
    pool = Pool(1, "apaf")
    played = []
    coming = pool.trajectories()
    played += [next(coming).key, next(coming).key]
    with pytest.raises(EtoGymError, match="no room"):
        next(coming)
    assert played == [EPISODES[0].key, EPISODES[1].key]


def load_for_long() -> Any:
    time.sleep(60)


def test_workers_that_still_load_are_not_waited_for() -> None:
    spec = RolloutSpec(CORRIDOR, load_for_long, workers=2)
    workers = [_Process(spec, alone=False) for _ in range(2)]
    began = time.monotonic()
    for worker in workers:
        worker.stop()
    assert time.monotonic() - began < 9, "less than the grace of one"
