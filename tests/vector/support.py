"""Driving vector environments, comparing infos, and a toy whose actions break things."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np

from tests.toy import CorridorEnv

WORDS = ("red", "blue", "lamp", "shirt", "tea")
USUAL = ["look around", "inventory", "wait1", "open door", "no such action"]
"""Actions for environments that were made without a list of them."""


class FragileEnv(CorridorEnv):
    """A corridor in which some actions do what no action should."""

    def pid(self) -> int:
        return os.getpid()

    def nap(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "raise":
            raise RuntimeError("the floor gave way")
        if action == "sleep":
            time.sleep(60)
        if action == "lock":
            self.extra = object()
        return super()._step(action)

    def _reset(self, task: Any, options: dict[str, Any]) -> str:
        if task.id.endswith("/23"):
            raise RuntimeError("there is no such corridor after all")
        return super()._reset(task, options)

    def _info(self) -> dict[str, Any]:
        extra = getattr(self, "extra", None)
        return {**super()._info(), **({} if extra is None else {"extra": lambda: extra})}


FRAGILE = "tests.vector.support:Fragile-v0"
gym.register("Fragile-v0", entry_point=FragileEnv, max_episode_steps=8)


def make_fragile(**kwargs: Any) -> gym.Env[str, str]:
    """Make one; what unpickles this in a process of its own imports little."""
    env: gym.Env[str, str] = gym.make(FRAGILE, admissible_actions=True, **kwargs)
    return env


def choose(actions: list[str] | None, rng: np.random.Generator) -> str:
    """Take a random admissible action, with words where it wants some."""
    if not actions:
        return "look" if actions is not None else choose(USUAL, rng)
    action = actions[int(rng.integers(len(actions)))]
    return action.replace("<query>", WORDS[int(rng.integers(len(WORDS)))])


def drive(vec: gym.vector.VectorEnv[Any, Any, Any], *, steps: int, seed: int) -> list[Any]:
    """Play random admissible actions, each slot by a generator of its own; record everything."""
    mode = vec.metadata["autoreset_mode"]
    rngs = [np.random.default_rng([seed, slot]) for slot in range(vec.num_envs)]
    observations, infos = vec.reset(seed=seed)
    record: list[Any] = [(observations, infos)]
    ended = np.zeros(vec.num_envs, dtype=np.bool_)
    unknown = np.full(vec.num_envs, None, dtype=object)
    listed = infos.get("admissible_actions", unknown).copy()
    for _ in range(steps):
        if mode is gym.vector.AutoresetMode.DISABLED and ended.any():
            observations, infos = vec.reset(options={"reset_mask": ended.copy()})
            record.append((observations, infos))
            listed[ended] = infos.get("admissible_actions", unknown)[ended]
        actions = tuple(choose(own, rng) for own, rng in zip(listed, rngs, strict=True))
        observations, rewards, terminated, truncated, infos = vec.step(actions)
        record.append((observations, rewards, terminated, truncated, infos))
        ended = terminated | truncated
        listed = infos.get("admissible_actions", unknown).copy()
    return record


def drive_singles(envs: list[gym.Env[str, str]], *, steps: int, seed: int) -> list[list[str]]:
    """Play as `drive` does in mode NEXT_STEP, one environment after another."""
    texts = []
    for slot, env in enumerate(envs):
        rng = np.random.default_rng([seed, slot])
        observation, info = env.reset(seed=seed + slot)
        own = [observation]
        ended = False
        for _ in range(steps):
            action = choose(info.get("admissible_actions"), rng)
            if ended:
                observation, info = env.reset()
                ended = False
            else:
                observation, _, terminated, truncated, info = env.step(action)
                ended = terminated or truncated
            own.append(observation)
        texts.append(own)
        env.close()
    return texts


def same(first: Any, second: Any) -> bool:
    """Compare records: arrays by kind and content, the rest by type and content."""
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same(first[key], second[key]) for key in first)
        )
    if isinstance(first, np.ndarray):
        return (
            isinstance(second, np.ndarray)
            and first.dtype == second.dtype
            and same(first.tolist(), second.tolist())
        )
    if isinstance(first, list | tuple):
        return (
            type(first) is type(second)
            and len(first) == len(second)
            and all(same(a, b) for a, b in zip(first, second, strict=True))
        )
    return type(first) is type(second) and bool(first == second)
