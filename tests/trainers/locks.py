"""A world that a tiny model can learn in seconds: two coloured locks, and a key for each colour."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym

from eto_gym import Expert, Prompt, Reply, Task, TaskSet, TextEnv
from eto_gym.agents.evaluation.measures import measure
from eto_gym.agents.evaluation.statistics import compare
from eto_gym.agents.policies import local_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.trajectories import Trajectory

KEYS = {
    "red": "iron", "blue": "brass", "green": "bone", "white": "iron", "black": "brass",
    "pink": "bone",
}  # fmt: skip
ROOMS = ("hall", "attic", "cellar", "barn")
LOCKS = 2


class LocksEnv(TextEnv):
    """Every lock names its colour; the wrong key ends the episode, the last right one earns 1.

    Two thirds of the combinations of rooms and colours are the split "train", the rest is "test".
    """

    def __init__(self, *, split: str = "train", **kwargs: Any) -> None:
        rng = random.Random(0)
        places = [(room, colour) for room in ROOMS for colour in KEYS]
        plans = [(first, second) for first in places for second in places]
        rng.shuffle(plans)
        cut = len(plans) * 2 // 3
        self.plans = {
            "/".join(f"{room}-{colour}" for room, colour in plan): plan
            for plan in (plans[:cut] if split == "train" else plans[cut:])
        }
        super().__init__(
            TaskSet([Task(name, "locks", split) for name in self.plans], split=split), **kwargs
        )
        self.opened = 0
        self.jammed = False

    def card(self) -> dict[str, Any]:
        return {"benchmark": "locks", "split": self.task_set.split}

    def prompt(self) -> Prompt:
        return Prompt("Open the locks.")

    def make_expert(self) -> Expert:
        return _Player(lambda colour: KEYS[colour])

    def make_player(self, seed: int) -> Expert:
        return _Player(functools.partial(_mistaken_key, random.Random(seed)))

    def _lock(self) -> str:
        room, colour = self.plans[self.task.id][self.opened]
        return f"You are in the {room}. The lock is {colour}."

    def _reset(self, task: Task, options: dict[str, Any]) -> str:
        self.opened, self.jammed = 0, False
        return self._lock()

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        if self.jammed or self.opened == LOCKS:
            return "It is over.", 0.0, True, False
        _, colour = self.plans[self.task.id][self.opened]
        if action != f"use {KEYS[colour]}":
            self.jammed = True
            return "The lock jams.", 0.0, True, False
        self.opened += 1
        if self.opened == LOCKS:
            return "You are out.", 1.0, True, False
        return self._lock(), 0.0, False, False

    def _info(self) -> dict[str, Any]:
        success = self.opened == LOCKS
        return {"score": float(success), "success": success}

    def cost_to_go(self) -> int | None:
        return None if self.jammed else LOCKS - self.opened

    def milestones(self) -> float:
        return self.opened / LOCKS

    def _admissible_actions(self) -> list[str]:
        return [f"use {key}" for key in sorted(set(KEYS.values()))]

    def _get_state(self) -> Any:
        return [self.opened, self.jammed]

    def _set_state(self, task: Task, state: Any) -> None:
        self.opened, self.jammed = state


def _mistaken_key(rng: random.Random, colour: str) -> str:
    """Mostly return one and the same wrong key, at times the right one or the third."""
    names = sorted(set(KEYS.values()))
    right = names.index(KEYS[colour])
    return names[(right + rng.choices((0, 1, 2), (0.36, 0.54, 0.1))[0]) % 3]


class _Player:
    """Uses the key that a function of the colour names."""

    def __init__(self, choose: Any) -> None:
        self.choose = choose

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        colour = observation.rstrip(".").split()[-1]
        return Reply("Hm.", f"use {self.choose(colour)}")


LOCKS_ID = "tests.trainers.locks:Locks-v0"
"""Id for `gym.make` in any process: it imports this module, which registers the id."""

gym.register("Locks-v0", entry_point=LocksEnv, max_episode_steps=4)

MUON: dict[str, Any] = {
    "optimizer": "muon", "learning_rate": 1e-2, "muon_learning_rate": 0.02, "adam_beta2": 0.95,
    "batch_size": 16, "micro_batch_size": 16, "schedule": "linear", "max_length": 256,
}  # fmt: skip
"""Settings with which a tiny model learns from scratch."""

GENTLE: dict[str, Any] = {
    "learning_rate": 5e-4, "beta": 1.0, "adam_beta2": 0.95, "batch_size": 16,
    "micro_batch_size": 16, "max_length": 256,
}  # fmt: skip
"""Settings with which DPO corrects a tiny model; six times the rate makes it forget to speak."""

PLAY: dict[str, Any] = {
    "env": LOCKS_ID, "data": "", "prompt_style": "none", "max_new_tokens": 12, "max_context": 256,
    "slots": 128, "progress": False,
}  # fmt: skip
"""Settings of any loop that plays with locks."""


def play_locks(
    make_policy: Callable[[], Policy],
    *,
    split: str = "train",
    tasks: int | None = None,
    samples: int = 1,
) -> list[Trajectory]:
    """Play locks with a policy."""
    spec = RolloutSpec(
        LOCKS_ID, make_policy, env_kwargs={"split": split}, prompt_style="none", slots=128
    )
    ids = LocksEnv(split=split).task_set.ids[:tasks]
    return collect(spec, plan_episodes(ids, samples=samples))


def model_policy(model: str | Path, *, temperature: float = 0.0) -> Callable[[], Policy]:
    """Return what builds the policy of a model folder."""
    return functools.partial(
        local_policy, str(model), temperature=temperature, max_new_tokens=12, context=256
    )


def success_of(model: str | Path) -> float:
    """Return the success of greedy replies on the held-out tasks."""
    return measure(play_locks(model_policy(model), split="test")).success.mean


EVIDENCE = 1e-4
"""A policy has learnt where the exact paired test gives luck no more than this chance."""

CHANCE = 1 / len(set(KEYS.values())) ** LOCKS
"""Success of random keys."""


def assert_learnt(report: dict[str, Any], policy: str, *, than_control: bool = False) -> None:
    """Check that a policy of a report beats where it began (or the control), and chance.

    How far a few steps of training get differs between processors, which round differently; that
    they help does not. So no rate is compared with a number, but episode with episode.
    """
    row = next(row for row in report["policies"] if row["policy"] == policy)
    test = row["paired_with_control" if than_control else "paired"]
    _assert_better(test["gained"], test["lost"], test["p"], row["success"]["low"])


def assert_model_learnt(before: str | Path, after: str | Path) -> None:
    """Check the same of two model folders, on the held-out tasks."""
    first, second = (play_locks(model_policy(m), split="test") for m in (before, after))
    test = compare(first, second)
    _assert_better(test.gained, test.lost, test.p, measure(second).success.low)


def _assert_better(gained: int, lost: int, p: float, low: float) -> None:
    assert gained > lost, (gained, lost)
    assert p < EVIDENCE, (gained, lost, p)
    assert low > CHANCE, (low, "random keys do as well")


def rates(report: dict[str, Any]) -> dict[str, float]:
    """Return the success of every policy of a report."""
    return {row["policy"]: row["success"]["mean"] for row in report["policies"]}
