"""Play many episodes while everything fails now and then, and account for every one of them.

Workers kill themselves, the collecting process is killed and started again, the disk fills up (a
small tmpfs, if root), the policy refuses, times out, returns what is no reply or talks nonsense,
and environments raise or hang. In the end every episode must be there once, and equal to the
same episode of a run without faults:

    python -m eto_gym.benchmarks.faults

With --endpoint the policy is a client of two servers of this program, over HTTP. They break now and
then in every way that passes, and are taken down, in turn or both:

    python -m eto_gym.benchmarks.faults --endpoint --episodes 3000
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

import eto_gym
from eto_gym.agents.policies import endpoint_policy, random_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.collect import collect, latest
from eto_gym.agents.rollout.engine import RetryPolicy
from eto_gym.agents.rollout.slot import Episode, plan_episodes
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.testing import text_env
from eto_gym.testing.fake_endpoint import FakeEndpoint
from eto_gym.testing.faults import NONSENSE as TEXTS
from eto_gym.testing.faults import FaultRates, FaultyEnv, FaultyPolicy
from eto_gym.trajectories import Trajectory, TrajectoryStore

ENV_ID = "eto_gym.benchmarks.faults:FaultyALFWorld-v0"
NONSENSE = 0.02
RATES = FaultRates(
    kill=1e-4,
    refuse=1e-3,
    give_up=2e-4,
    no_reply=2e-4,
    nonsense=NONSENSE,
    engine=2e-4,
    hang=2e-5,
    hang_s=20.0,
)
STEP_TIMEOUT = 5.0
HTTP_FAULTS = {
    "429": 0.01,
    "429 after 300 ms": 0.005,
    "500": 0.01,
    "503": 0.005,
    "504": 0.002,
    "disconnect": 0.005,
    "reset": 0.005,
    "close": 0.005,
    "trickle": 0.0005,
    "stall": 0.0005,
    "malformed": 0.003,
    "html": 0.003,
    "empty choices": 0.003,
    "null message": 0.003,
    "not utf-8": 0.003,
    "refused": 0.0002,  # the one that is not tried again: the episode becomes an error
}
"""How often a request meets which fault."""
HTTP_TIMEOUT = 5.0  # seconds
OUTAGES = (6.0, 2.0)
"""Seconds that the servers are there, and that one of them, or each, is not."""
FULL = 3
"""Exit status of a collecting process that could not write."""


def make_env(*, faults: bool, kill: float = 0.0, steps: int = 20) -> gym.Env[str, str]:
    """Make the environment; this module registers it wherever it is imported."""
    env = gym.make(
        "ETO/ALFWorld-v0", data="builtin:small", admissible_actions=True, max_episode_steps=steps
    )
    return FaultyEnv(env, replace(RATES, kill=kill)) if faults else env


if "FaultyALFWorld-v0" not in gym.registry:  # the program itself is imported by its workers too
    gym.register(
        "FaultyALFWorld-v0",
        entry_point="eto_gym.benchmarks.faults:make_env",
        disable_env_checker=True,
    )


def make_policy(*, faults: bool) -> Policy:
    """Build the policy; what is nonsense is the same with and without the faults."""
    rates = RATES if faults else FaultRates(nonsense=NONSENSE)
    return FaultyPolicy(random_policy(), rates)


def main() -> int:
    """Play, account, and return 0 if the account is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5, help="kills of the collecting process")
    parser.add_argument("--disk-mb", type=int, default=16, help="the disk grows by so much")
    parser.add_argument("--endpoint", action="store_true", help="ask servers that break, over HTTP")
    args = parser.parse_args()
    print(f"# {' '.join(['python -m eto_gym.benchmarks.faults', *sys.argv[1:]])}")
    print(f"# eto-gym {eto_gym.__version__}")
    logging.basicConfig(level=logging.CRITICAL)
    episodes = _episodes(args.episodes)
    with contextlib.ExitStack() as stack:
        if args.endpoint:
            site = stack.enter_context(_Site())
            spec = functools.partial(_endpoint_spec, urls=site.urls, workers=args.workers)
        else:
            spec = functools.partial(_spec, workers=args.workers)
        started = time.perf_counter()
        expected = latest(collect(spec(faults=False), episodes))
        print(f"without faults: {len(expected)} episodes, {time.perf_counter() - started:.0f} s")
        if args.endpoint:
            stack.enter_context(site.breaking())
        disk = _Disk(Path(stack.enter_context(tempfile.TemporaryDirectory())), args.disk_mb)
        stack.enter_context(disk)
        started = time.perf_counter()
        events = _play(episodes, disk, args, spec(faults=True))
        print(f"with faults: {time.perf_counter() - started:.0f} s")
        if args.endpoint:
            events += site.events
        stored = TrajectoryStore(disk.path / "t.jsonl").load(strict=True)
    return _account(episodes, expected, stored, events)


def _episodes(count: int) -> list[Episode]:
    ids = text_env(make_env(faults=False)).task_set.ids
    samples = -(-count // len(ids))
    by_sample = sorted(plan_episodes(ids, samples=samples), key=lambda episode: episode.sample)
    return by_sample[:count]


def _endpoint_spec(*, faults: bool, workers: int, urls: Sequence[str]) -> RolloutSpec:
    """Say what plays by asking the servers; it is streamed, not played in batches."""
    options = {"timeout": HTTP_TIMEOUT, "first_wait": 0.05, "max_wait": 1.0}
    return replace(
        _spec(faults=faults, workers=workers),
        make_policy=functools.partial(endpoint_policy, urls, "m", temperature=1.0, **options),
        env_kwargs={"faults": faults, "kill": RATES.kill, "steps": 8},
        retry=RetryPolicy(attempts=3, kinds=RetryPolicy().kinds | {"policy", "format"}),
    )


class _Site:
    """Two servers that answer by what they are asked; they break while `breaking` is entered."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self._chance = random.Random(1)
        self._servers = [FakeEndpoint(answer=_answer, keep=False) for _ in range(2)]
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Site:
        for server in self._servers:
            self._stack.enter_context(server)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self._servers]

    @contextlib.contextmanager
    def breaking(self) -> Iterator[None]:
        for server in self._servers:
            server.choose = self._choose
        thread = threading.Thread(target=self._take_down)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            for server in self._servers:
                server.choose = lambda body: None

    def _choose(self, body: dict[str, Any]) -> str | None:
        names = [*HTTP_FAULTS, None]
        weights = [*HTTP_FAULTS.values(), 1 - sum(HTTP_FAULTS.values())]
        with self._lock:
            (fault,) = self._chance.choices(names, weights)
            self.events["requests over HTTP"] += 1
            if fault is not None:
                self.events[f"HTTP fault '{fault}'"] += 1
        return fault

    def _take_down(self) -> None:
        up, down = OUTAGES
        turn = 0
        while not self._over.wait(up):
            chosen = [self._servers[:1], self._servers[1:], self._servers][turn % 3]
            turn += 1
            with self._lock:
                self.events[f"outages of {len(chosen)} of 2 servers"] += 1
            for server in chosen:
                server.stop()
            self._over.wait(down)
            for server in chosen:
                server.start()


def _answer(body: dict[str, Any]) -> str:
    """Choose what to do by all that was said and by the seed, and sometimes talk nonsense."""
    said = [message["content"] for message in body["messages"]]
    digest = hashlib.sha256(json.dumps([said, body["seed"]]).encode()).digest()
    draw = int.from_bytes(digest[:4], "big") / 2**32
    if draw < NONSENSE:
        return TEXTS[digest[4] % len(TEXTS)]
    seen = re.findall(r"\ban? ([a-z]+ \d+)", "\n".join(said))
    choices = ["look", "inventory", *(f"go to {thing}" for thing in seen)]
    return f"Thought: why not?\nAction: {choices[digest[5] % len(choices)]}"


def _spec(*, faults: bool, workers: int) -> RolloutSpec:
    return RolloutSpec(
        ENV_ID,
        functools.partial(make_policy, faults=faults),
        env_kwargs={"faults": faults},
        prompt_style="none",
        slots=16 * workers,
        workers=workers,
        retry=RetryPolicy(attempts=3),
        step_timeout=STEP_TIMEOUT if faults else None,
    )


class _Disk:
    """A small file system that can grow; without root, the one of the folder."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._step = self._size = megabytes
        self.small = False

    def __enter__(self) -> _Disk:
        self.small = self._mount(f"size={self._size}m")
        if not self.small:
            print("the disk cannot be made small (that needs root): no full disk in this run")
        return self

    def __exit__(self, *_: object) -> None:
        if self.small:
            subprocess.run(["umount", str(self.path)], check=True)

    def grow(self) -> None:
        self._size += self._step
        self._mount(f"remount,size={self._size}m")

    def _mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        return os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0


def _play(
    episodes: Sequence[Episode], disk: _Disk, args: argparse.Namespace, spec: RolloutSpec
) -> Counter[str]:
    """Collect again and again until no episode is missing; count what happened."""
    events: Counter[str] = Counter()
    chance = random.Random(0)
    context = multiprocessing.get_context("spawn")
    while True:
        store = disk.path / "t.jsonl"
        process = context.Process(target=_collect, args=(list(episodes), store, spec))
        process.start()
        killed = events["the collecting process was killed"] < args.kills
        process.join(timeout=chance.uniform(5, 20) if killed else None)
        if process.is_alive():
            process.kill()
            process.join()
            events["the collecting process was killed"] += 1
        elif process.exitcode == FULL:
            events["the disk was full"] += 1
            disk.grow()
        elif process.exitcode != 0:
            raise SystemExit(f"collecting failed with exit code {process.exitcode}")
        else:
            events["passes that came to their end"] += 1
            if not _failed(store):
                return events


def _failed(store: Path) -> int:
    return sum(t.failed_to_run for t in latest(TrajectoryStore(store).load()).values())


def _collect(episodes: list[Episode], store: Path, spec: RolloutSpec) -> None:
    logging.basicConfig(level=logging.CRITICAL)
    try:
        collect(spec, episodes, store=TrajectoryStore(store))
    except EtoGymError as err:
        print(f"stopped: {err}")
        raise SystemExit(FULL if "No space left" in str(err) else 1) from err


def _account(
    episodes: Sequence[Episode],
    expected: dict[tuple[str, int], Trajectory],
    stored: Sequence[Trajectory],
    events: Counter[str],
) -> int:
    scored = Counter(t.key for t in stored if not t.failed_to_run)
    final = latest(stored)
    errors = Counter(t.error for t in stored if t.failed_to_run)
    retried = sum(t.usage.get("failed_attempts", 0) for t in stored)
    same = sum(_plain(final[key]) == _plain(t) for key, t in expected.items() if key in final)
    for event, count in sorted(events.items()):
        print(f"{event}: {count}")
    print(f"attempts that failed and were retried at once: {retried}")
    print(f"errors that were recorded, and replaced by a later pass: {dict(errors)}")
    right = {
        "episodes planned": len(episodes),
        "episodes stored": len(set(final)),
        "stored once with a score": sum(count == 1 for count in scored.values()),
        "equal to the run without faults": same,
    }
    for line, count in right.items():
        print(f"{line}: {count}")
    fine = len(set(right.values())) == 1 and set(final) == {e.key for e in episodes}
    print("every episode is accounted for once" if fine else "THE ACCOUNT IS WRONG")
    return 0 if fine else 1


def _plain(trajectory: Trajectory) -> Trajectory:
    """Return the trajectory without the count of its failed attempts."""
    return replace(trajectory, usage={})


if __name__ == "__main__":
    sys.exit(main())
