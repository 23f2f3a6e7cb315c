"""Measures ScienceWorld: the stock API, one JVM per environment, and shared JVMs; and determinism.

    python -m eto_gym.benchmarks.scienceworld
    python -m eto_gym.benchmarks.scienceworld --environments 1 4 16 --repeats 3
    python -m eto_gym.benchmarks.scienceworld --determinism
    python -m eto_gym.benchmarks.scienceworld --soak 1000

Every configuration runs in a process of its own. It is built (to the first observation of the last
environment), then all environments step in turn through the same recorded solutions, in several
passes; the last pass counts, when the JVM has compiled what it runs. CPU time and memory are those
of the process and of its JVMs together, as Linux reports them: memory is the proportional set size.
Configurations are run side by side, `--repeats` times, and medians are shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import eto_gym
from eto_gym.envs.scienceworld.java import find_java
from eto_gym.envs.scienceworld.jvm import FLAGS, engine_version
from eto_gym.envs.scienceworld.session import EngineSession, EngineStep
from eto_gym.envs.scienceworld.tasks import VARIATIONS, split_id

TASKS = (
    "boil/1",
    "find-plant/3",
    "use-thermometer/4",
    "grow-plant/2",
    "chemistry-mix/3",
    "test-conductivity/5",
    "lifespan-longest-lived/3",
    "identify-life-stages-1/2",
)
"""What is played, up to `--steps` actions of the engine's own solution of each."""

SIMPLIFICATION = "easy"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--environments", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=("stock", "process", "shared", "shared-1"),
        default=["stock", "process", "shared", "shared-1"],
        help="shared uses the default number of lanes, shared-1 a single one",
    )
    parser.add_argument("--steps", type=int, default=25, help="steps per episode (default 25)")
    parser.add_argument("--passes", type=int, default=4, help="passes over the tasks (default 4)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each configuration")
    parser.add_argument("--determinism", action="store_true", help="compare with fresh JVMs")
    parser.add_argument("--soak", type=int, default=0, metavar="EPISODES", help="play random text")
    parser.add_argument("--seed", type=int, default=0, help="seed of the play")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(_measure(json.loads(args.worker))))
        return
    java = find_java()
    print(f"# {' '.join(['python -m eto_gym.benchmarks.scienceworld', *sys.argv[1:]])}")
    print(
        f"# eto-gym {eto_gym.__version__}, scienceworld {engine_version()}, Java {java.version}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, flags {' '.join(FLAGS)}"
    )
    if args.determinism:
        _report_determinism(args.steps, args.seed)
    elif args.soak:
        _report_soak(args.soak, args.seed)
    else:
        _report_speed(args)


# --- speed and memory -----------------------------------------------------------------------------


def _report_speed(args: argparse.Namespace) -> None:
    plans = _plans(args.steps)
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(args.repeats):
        for count in args.environments:
            for mode in args.modes:
                if mode == "shared-1" and count == 1:
                    continue  # one environment is on one lane anyway
                job = {"mode": mode, "count": count, "plans": plans, "passes": args.passes}
                results.setdefault((mode, count), []).append(_in_own_process(job))
    columns = ("jvms", "build s", "build cpu s", "memory MB", "steps/s", "cpu ms/step", "cold")
    print(f"{'mode':<10}{'envs':>5}" + "".join(f"{name:>13}" for name in columns))
    for (mode, count), runs in results.items():
        cells = "".join(f"{statistics.median(run[c] for run in runs):>13.2f}" for c in columns)
        print(f"{mode:<10}{count:>5}{cells}")
    for count in args.environments:
        stock = results.get(("stock", count))
        shared = results.get(("shared", count))
        if stock and shared:
            ratio = statistics.median(
                s["cpu ms/step"] / o["cpu ms/step"] for s, o in zip(stock, shared, strict=True)
            )
            print(
                f"# {count} environment(s): {ratio:.1f} times the stock API's steps per CPU second"
            )


def _plans(steps: int) -> list[tuple[str, list[str]]]:
    """Return the tasks with the beginnings of their solutions."""
    session = EngineSession(isolation="process")
    try:
        return [
            (task, session.gold_path(*split_id(task), SIMPLIFICATION)[:steps]) for task in TASKS
        ]
    finally:
        session.close()


def _in_own_process(job: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "eto_gym.benchmarks.scienceworld", "--worker", json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


class _Stock:
    """An environment of the stock API, used as its documentation shows."""

    def __init__(self) -> None:
        from scienceworld import ScienceWorldEnv

        self._env = ScienceWorldEnv("", envStepLimit=10**9)

    def reset(self, task: str) -> None:
        self._env.load(*split_id(task), SIMPLIFICATION)
        self._env.reset()

    def step(self, action: str) -> None:
        self._env.step(action)

    def close(self) -> None:
        self._env.close()


class _Ours:
    """An environment of this package, through `gym.make`."""

    def __init__(self, **kwargs: Any) -> None:
        import gymnasium as gym

        self._env = gym.make("ETO/ScienceWorld-v0", simplification=SIMPLIFICATION, **kwargs)

    def reset(self, task: str) -> None:
        self._env.reset(options={"task": task})

    def step(self, action: str) -> None:
        self._env.step(action)

    def close(self) -> None:
        self._env.close()


_MAKERS: dict[str, Callable[[], Any]] = {
    "stock": _Stock,
    "process": lambda: _Ours(isolation="process"),
    "shared": _Ours,
    "shared-1": lambda: _Ours(lanes=1),
}


def _measure(job: dict[str, Any]) -> dict[str, float]:
    """Build, play and measure one configuration in this process."""
    started, cpu_before = time.perf_counter(), _cpu_seconds()
    memory_before = _memory_mb([os.getpid()])
    make = _MAKERS[job["mode"]]
    environments = [make() for _ in range(job["count"])]
    for i, environment in enumerate(environments):
        environment.reset(job["plans"][i % len(job["plans"])][0])
    result = {
        "build s": time.perf_counter() - started,
        "build cpu s": _cpu_seconds() - cpu_before,
    }
    passes = [_play_pass(environments, job["plans"], job["mode"]) for _ in range(job["passes"])]
    result["steps/s"], result["cpu ms/step"] = passes[-1]
    result["cold"] = passes[0][1]
    tree = _process_tree()
    result["memory MB"] = _memory_mb(tree) - memory_before
    result["jvms"] = float(len(tree) - 1)
    for environment in environments:
        environment.close()
    return result


def _play_pass(
    environments: Sequence[Any], plans: Sequence[tuple[str, list[str]]], mode: str
) -> tuple[float, float]:
    """Play every plan once, shared out over the environments; return steps/s and CPU ms/step."""
    steps, wall, cpu = 0, 0.0, 0.0
    for first in range(0, len(plans), len(environments)):
        # With more environments than plans left, plans are played more than once.
        batch = [
            (environment, *plans[(first + i) % len(plans)])
            for i, environment in enumerate(environments)
        ]
        for environment, task, _ in batch:
            environment.reset(task)
        start, cpu_start = time.perf_counter(), _cpu_seconds()
        for turn in range(max(len(actions) for _, _, actions in batch)):
            for environment, _, actions in batch:
                if turn < len(actions):
                    environment.step(actions[turn])
                    steps += 1
        wall += time.perf_counter() - start
        cpu += _cpu_seconds() - cpu_start
    return steps / wall, 1e3 * cpu / steps


def _process_tree() -> list[int]:
    """Return this process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    tree = [os.getpid()]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _cpu_seconds() -> float:
    ticks = 0
    for pid in _process_tree():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_mb(pids: Sequence[int]) -> float:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


# --- determinism ----------------------------------------------------------------------------------


def _report_determinism(steps: int, seed: int) -> None:
    """Play all 30 tasks in a fresh JVM each, then repeat the same actions in shared ones."""
    started = time.perf_counter()
    jobs: list[tuple[str, list[str]]] = []
    expected: list[list[Any]] = []
    for name in VARIATIONS:
        task = f"{name}/{random.Random(f'{seed} {name}').randrange(VARIATIONS[name])}"
        session = EngineSession(isolation="process")
        try:
            actions, record = _explore(session, task, steps, seed)
        finally:
            session.close()
        jobs.append((task, actions))
        expected.append(record)
    records = sum(len(record) for record in expected)
    print(
        f"fresh JVMs: {len(jobs)} tasks, {records} records, {time.perf_counter() - started:.0f} s"
    )
    ways: dict[str, Callable[[Sequence[tuple[str, list[str]]]], list[list[Any]]]] = {
        "one JVM, one after the other, backwards": _backwards,
        "one JVM, all interleaved": _interleaved,
        "two JVMs, eight threads": _threaded,
    }
    for label, way in ways.items():
        started = time.perf_counter()
        got = way(jobs)
        differing = sum(
            a != b
            for mine, theirs in zip(got, expected, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )
        print(f"{label}: {differing} differ, {time.perf_counter() - started:.0f} s", flush=True)


def _start(session: EngineSession, task: str) -> list[Any]:
    session.load(*split_id(task), SIMPLIFICATION)
    return [session.task_description(), session.look(), session.inventory()]


def _explore(
    session: EngineSession, task: str, steps: int, seed: int
) -> tuple[list[str], list[Any]]:
    """Play random valid actions; return them and everything that was seen."""
    rng = random.Random(f"{seed} {task}")
    record = _start(session, task)
    actions: list[str] = []
    for _ in range(steps):
        valid = session.valid_actions()
        action = rng.choice(valid)
        record += _answers(session, session.step(action))
        actions.append(action)
    return actions, record


def _answers(session: EngineSession, result: EngineStep) -> list[Any]:
    return [result, session.look(), session.inventory()]


def _replay(session: EngineSession, task: str, actions: Sequence[str]) -> list[Any]:
    record = _start(session, task)
    for action in actions:
        record += _answers(session, session.step(action))
    return record


def _backwards(jobs: Sequence[tuple[str, list[str]]]) -> list[list[Any]]:
    session = EngineSession(lanes=1)
    try:
        return [_replay(session, *job) for job in reversed(jobs)][::-1]
    finally:
        session.close()


def _interleaved(jobs: Sequence[tuple[str, list[str]]]) -> list[list[Any]]:
    sessions = [EngineSession(lanes=1) for _ in jobs]
    try:
        records = [_start(session, task) for session, (task, _) in zip(sessions, jobs, strict=True)]
        for turn in range(max(len(actions) for _, actions in jobs)):
            for session, record, (_, actions) in zip(sessions, records, jobs, strict=True):
                record += _answers(session, session.step(actions[turn]))
                session.valid_actions()
        return records
    finally:
        for session in sessions:
            session.close()


def _threaded(jobs: Sequence[tuple[str, list[str]]]) -> list[list[Any]]:
    records: dict[int, list[Any]] = {}

    def work(indices: Sequence[int]) -> None:
        session = EngineSession(lanes=2)
        try:
            for i in indices:
                records[i] = _replay(session, *jobs[i])
        finally:
            session.close()

    threads = [
        threading.Thread(target=work, args=(range(first, len(jobs), 8),)) for first in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [records[i] for i in range(len(jobs))]


# --- random text ----------------------------------------------------------------------------------

_VERBS = (
    "open", "close", "pick up", "move", "pour", "mix", "use", "focus on", "look at", "look in",
    "go to", "teleport to", "activate", "deactivate", "connect", "disconnect", "dunk", "eat",
    "flush", "read", "examine", "put down", "wait1", "inventory", "task", "reset task", "help", "",
)  # fmt: skip


def _report_soak(episodes: int, seed: int) -> None:
    """Play ten steps of random text in every episode; show what comes out, and the memory."""
    import gymnasium as gym

    rng = random.Random(seed)
    env = gym.make("ETO/ScienceWorld-v0", lanes=1)
    inner: Any = env.unwrapped
    steps = errors = 0
    print(f"{'episodes':>9}{'steps':>8}{'errors':>8}{'JVM MB':>8}{'Python MB':>11}{'objects':>9}")
    for episode in range(1, episodes + 1):
        name = rng.choice(tuple(VARIATIONS))
        observation, _ = env.reset(options={"task": f"{name}/{rng.randrange(VARIATIONS[name])}"})
        for _ in range(10):
            observation, *_, info = env.step(_random_text(rng, observation))
            steps += 1
            if info.get("error") is not None:
                errors += 1
                print(f"# {info['task_id']}: {info['error_detail']}")
                break
        if episode % max(1, episodes // 10) == 0:
            jvm = inner._session.lane.jvm
            gateway = jvm.gateway.java_gateway_server.getGateway()
            bindings = gateway.getBindings()
            held = bindings.size()
            jvm.release(bindings, gateway)
            print(
                f"{episode:>9}{steps:>8}{errors:>8}{_memory_mb([jvm.pid]):>8.0f}"
                f"{_memory_mb([os.getpid()]):>11.0f}{held:>9}",
                flush=True,
            )
    env.close()


def _random_text(rng: random.Random, observation: str) -> str:
    """Return noise, or a sentence of the world's own words, which reaches further."""
    if rng.random() < 0.2:
        return "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) for _ in range(30)
        )
    words = [word.strip(".,:()") for word in observation.split()] or ["air"]
    parts = [rng.choice(_VERBS)]
    for _ in range(rng.randrange(3)):
        start = rng.randrange(len(words))
        parts += [*words[start : start + rng.randrange(1, 4)], rng.choice(("to", "on", "in", ""))]
    return " ".join(parts)


if __name__ == "__main__":
    if importlib.util.find_spec("scienceworld") is None:
        sys.exit('not installed: pip install "eto-gym[scienceworld]"')
    main()
