"""Measures how fast episodes are played: environments alone, and with a policy in the loop.

Every measurement runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import gymnasium as gym
import numpy as np

from eto_gym.agents.launcher import RolloutSpec
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout import Rollout
from eto_gym.agents.slot import Episode
from eto_gym.conversation import PromptStyle
from eto_gym.errors import EtoGymError
from eto_gym.trajectories import Trajectory

P = ParamSpec("P")
T = TypeVar("T")

Scheme = Literal["environment", "engine", "one at a time"]


@dataclass(frozen=True, slots=True)
class Throughput:
    """One measurement.

    Attributes:
        scheme: "environment" (random admissible actions, no conversation), "engine" (a policy in
            the rollout engine), or "one at a time" (the scheme of the original: one conversation,
            its whole prompt computed anew in every turn).
        num_envs: Environments at the same time.
        episodes: Episodes that ended.
        errors: Episodes among them that could not be played out.
        steps: Steps that were taken.
        wall_s: Seconds, the loading of a model excluded. The engine makes its environments within
            that time, as in every rollout.
        cpu_s: Seconds of processor time of this process, which has the model but not the engines
            and environments in other processes.
        prefilled_tokens: Tokens of conversations that the model computed.
        decoded_tokens: Tokens that it generated.
        memory_mb: Peak of resident memory, child processes included.
    """

    scheme: Scheme
    num_envs: int
    episodes: int
    errors: int
    steps: int
    wall_s: float
    cpu_s: float
    prefilled_tokens: int
    decoded_tokens: int
    memory_mb: float

    @property
    def steps_per_second(self) -> float:
        """Steps per second of wall time."""
        return self.steps / self.wall_s

    @property
    def episodes_per_hour(self) -> float:
        """Episodes per hour of wall time."""
        return 3600 * self.episodes / self.wall_s


def measure_environment(
    env_id: str, env_kwargs: Mapping[str, Any], *, num_envs: int, steps: int, seed: int = 0
) -> Throughput:
    """Play random admissible actions in a vector environment for about `steps` steps.

    An environment without a vector entry point of its own is stepped one by one; Gymnasium's
    general vector environments are not made for text.
    """
    kwargs = {**env_kwargs, "admissible_actions": True}
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)  # which registers the id
    if gym.spec(name).vector_entry_point is None:
        return _measure_singly(env_id, kwargs, num_envs=num_envs, steps=steps, seed=seed)
    rng = np.random.default_rng(seed)
    envs = gym.make_vec(env_id, num_envs=num_envs, **kwargs)
    try:
        _, infos = envs.reset(seed=seed)
        clock = _Clock()
        taken = ended = failed = 0
        while taken < steps:
            actions = [_draw(rng, listed) for listed in infos["admissible_actions"]]
            _, _, terminated, truncated, infos = envs.step(actions)
            done = np.asarray(terminated) | np.asarray(truncated)
            ended += int(done.sum())
            failed += sum(error is not None for error in infos.get("error", ()))
            taken += num_envs
        return clock.stop("environment", num_envs, episodes=ended, errors=failed, steps=taken)
    finally:
        envs.close()


def _measure_singly(
    env_id: str, kwargs: Mapping[str, Any], *, num_envs: int, steps: int, seed: int
) -> Throughput:
    rng = np.random.default_rng(seed)
    envs: list[gym.Env[str, str]] = [gym.make(env_id, **kwargs) for _ in range(num_envs)]
    try:
        infos = [env.reset(seed=seed + i)[1] for i, env in enumerate(envs)]
        clock = _Clock()
        taken = ended = failed = 0
        while taken < steps:
            for i, env in enumerate(envs):
                action = _draw(rng, infos[i]["admissible_actions"])
                _, _, terminated, truncated, infos[i] = env.step(action)
                failed += infos[i].get("error") is not None
                if terminated or truncated:
                    ended += 1
                    infos[i] = env.reset()[1]
            taken += num_envs
        return clock.stop("environment", num_envs, episodes=ended, errors=failed, steps=taken)
    finally:
        for env in envs:
            env.close()


def _draw(rng: np.random.Generator, actions: Sequence[str] | None) -> str:
    """Return a random action; where none is listed the episode has ended, and any will do."""
    return actions[int(rng.integers(len(actions)))] if actions else ""


def measure_policy(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    make_policy: Callable[[], Policy],
    episodes: Sequence[Episode],
    *,
    num_envs: int,
    env_workers: int = 0,
    scheme: Scheme = "engine",
    prompt_style: PromptStyle = "one-shot",
) -> Throughput:
    """Play `episodes` with a policy; the first one is played before the clock starts, too.

    Args:
        env_id: Registered id.
        env_kwargs: Arguments of `gym.make`.
        make_policy: Builds the policy; for "one at a time" one that keeps no cache.
        episodes: What to play.
        num_envs: Slots of the engine.
        env_workers: Processes for the environments; see `Rollout`.
        scheme: What the result is called.
        prompt_style: See `ConversationEnv`.
    """
    spec = RolloutSpec(
        env_id,
        make_policy,
        env_kwargs=env_kwargs,
        prompt_style=prompt_style,
        slots=num_envs,
        env_workers=env_workers,
    )
    rollout: Rollout = spec.rollout()
    next(rollout.play(episodes[:1]))  # warms up the engine, and whatever is shared in the process
    clock = _Clock()
    played: list[Trajectory] = list(rollout.play(episodes))
    rollout.close()
    return clock.stop(
        scheme,
        num_envs,
        episodes=len(played),
        errors=sum(t.failed_to_run for t in played),
        steps=sum(len(t.steps) for t in played),
        prefilled_tokens=sum(t.usage.get("prefilled_tokens", 0) for t in played),
        decoded_tokens=sum(t.usage.get("decoded_tokens", 0) for t in played),
    )


class _Clock:
    """Takes the time from its making to `stop`."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, scheme: Scheme, num_envs: int, **counts: int) -> Throughput:
        return Throughput(
            scheme=scheme,
            num_envs=num_envs,
            wall_s=time.perf_counter() - self._wall,
            cpu_s=time.process_time() - self._cpu,
            memory_mb=peak_memory_mb(),
            **{"prefilled_tokens": 0, "decoded_tokens": 0, **counts},
        )


def peak_memory_mb(pid: int | None = None) -> float:
    """Return the peak of resident memory of a process and of its living children; NaN if unknown.

    Args:
        pid: The process; None is this one.
    """
    process = Path("/proc") / str(os.getpid() if pid is None else pid)
    try:
        status = (process / "status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        total = int(peak.split()[1]) / 1024
        for task in (process / "task").iterdir():
            for child in (task / "children").read_text().split():
                total += peak_memory_mb(int(child))
    except (OSError, StopIteration):
        return float("nan")
    return total


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a picklable function in a fresh process.

    Raises:
        EtoGymError: It raised, or the process died; the message says which.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, args, kwargs))
    process.start()
    sender.close()
    try:
        fine, result = receiver.recv()
    except EOFError:
        process.join()
        raise EtoGymError(f"the measuring process died (exit code {process.exitcode})") from None
    finally:
        receiver.close()
    process.join()
    if not fine:
        raise EtoGymError(result)
    value: T = result
    return value


def _call(
    sender: Connection, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    try:
        sender.send((True, function(*args, **kwargs)))
    except Exception as err:  # whatever it is, it is the caller's
        sender.send((False, f"{type(err).__name__}: {err}"))
