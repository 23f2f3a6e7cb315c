"""Measures how fast episodes are played: environments alone, and with a policy in the loop.

Every measurement runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import gymnasium as gym
import numpy as np

from eto_gym.agents.rollout.local_launcher import LocalLauncher
from eto_gym.agents.rollout.slot import Episode
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.processes import FollowingContext
from eto_gym.trajectories.lines import decode

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
        num_envs: Environments at the same time, over all processes.
        processes: Processes with a policy each.
        episodes: Episodes that ended.
        errors: Episodes among them that could not be played out.
        steps: Steps that were taken.
        wall_s: Seconds. The engine makes its environments within that time, as in every rollout.
            The loading of a model is excluded with one process, and included with several.
        cpu_s: Seconds of processor time of the processes that have a model, without engines and
            environments in others that still run.
        prefilled_tokens: Tokens of conversations that the model computed.
        decoded_tokens: Tokens that it generated.
        memory_mb: Peak of resident memory, child processes included; of several that have a policy
            each, the largest counts for all.
    """

    scheme: Scheme
    num_envs: int
    processes: int
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
    spec: RolloutSpec, episodes: Sequence[Episode], *, scheme: Scheme = "engine"
) -> Throughput:
    """Play `episodes` with a policy.

    With one process the model is loaded, and the first episode played once, before the clock
    starts. Several processes (`spec.workers`) have a model each; their start is part of the time.

    Args:
        spec: What plays; for "one at a time" with a policy that keeps no cache, and one slot.
        episodes: What to play.
        scheme: What the result is called.
    """
    if spec.workers > 1:
        clock = _Clock()
        with contextlib.closing(LocalLauncher().play(spec, episodes)) as playing:
            played = [decode(trajectory) for trajectory in playing]
    else:
        rollout = spec.rollout()
        next(rollout.play(episodes[:1]))  # also warms up what is shared in the process
        clock = _Clock()
        played = list(rollout.play(episodes))
        rollout.close()
    return clock.stop(
        scheme,
        spec.slots,
        processes=spec.workers,
        episodes=len(played),
        errors=sum(t.failed_to_run for t in played),
        steps=sum(len(t.steps) for t in played),
        prefilled_tokens=sum(t.usage.get("prefilled_tokens", 0) for t in played),
        decoded_tokens=sum(t.usage.get("decoded_tokens", 0) for t in played),
    )


class _Clock:
    """Takes the time from its making to `stop`."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def stop(
        self, scheme: Scheme, num_envs: int, *, processes: int = 1, **counts: int
    ) -> Throughput:
        memory = peak_memory_mb()
        if processes > 1:  # which have ended by now
            memory += processes * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        return Throughput(
            scheme=scheme,
            num_envs=num_envs,
            processes=processes,
            wall_s=time.perf_counter() - self._wall,
            cpu_s=_cpu_seconds() - self._cpu,
            memory_mb=memory,
            **{"prefilled_tokens": 0, "decoded_tokens": 0, **counts},
        )


def _cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


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
    context = FollowingContext()
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
