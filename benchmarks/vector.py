"""Speed and memory of vector environments, without a policy.

    python -m eto_gym.benchmarks.vector --env ETO/ALFWorld-v0
    python -m eto_gym.benchmarks.vector --env ETO/WebShop-v0 --set catalog=INDEX_FOLDER

Play is random over the admissible actions, which every step lists; a search is for two of the words
below. Every row is measured in a new process: first `--warm-up` steps, then
`--repeats` times `--steps` steps.

    gymnasium sync     Gymnasium's SyncVectorEnv
    local              TextVectorEnv in one process, by `step`
    K workers          TextVectorEnv with K worker processes, by `step`
    K workers, async   the same by `send_steps` and `receive`: a worker's slots go on as soon as
                       they have answered, while the others are still busy

"steps/s" counts all steps per second of wall time, those that start an episode included; "steps per
CPU-s" divides by the CPU time of the process and all its children. Memory is what these processes
hold alone (private dirty pages, Linux only) after the play; "kB per env" is what each environment
adds to a vector of one. "us here" and "us in workers" are the CPU time per step of the process that
chooses the actions and of its workers.

    python -m eto_gym.benchmarks.vector --env ETO/ALFWorld-v0 --episodes 4000

With `--episodes` whole episodes are played and stored instead, as `eto-gym rollout` does, with the
random policy in each worker. Every one of `--repeats` is a run with new processes; "episodes/s"
counts from when a fifth of the episodes is there, "with start" from the beginning, and CPU time is
per episode, the start included.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

import eto_gym
from eto_gym.agents.policies import random_policy
from eto_gym.agents.rollout.collect import gather
from eto_gym.agents.rollout.launchers import Launcher
from eto_gym.agents.rollout.local_launcher import LocalLauncher
from eto_gym.agents.rollout.slot import Episode, plan_episodes
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.cli.throughput import in_own_process
from eto_gym.files import write_json
from eto_gym.trajectories import PlayedTrajectory, TrajectoryStore
from eto_gym.vector import TextVectorEnv

WORDS = ("red", "blue", "black", "cotton", "dress", "shoes", "shirt", "women", "lamp", "table")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--env", default="ETO/ALFWorld-v0", choices=eto_gym.registered_ids())
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20_000, help="steps in all per measurement")
    parser.add_argument("--warm-up", type=int, default=20_000, help="steps in all before them")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the median counts")
    parser.add_argument("--episodes", type=int, help="measure `collect`, over so many episodes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    kwargs = dict(item.split("=", 1) for item in args.set)
    print(f"# {' '.join(['python -m eto_gym.benchmarks.vector', *sys.argv[1:]])}")
    print(f"# eto-gym {eto_gym.__version__}, Python {platform.python_version()}, ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores")
    rows: list[dict[str, Any]] = []
    for workers in [0, *args.workers] if args.episodes else []:
        rows.append(in_own_process(_collect, args, kwargs, workers))
        _print_row(rows[-1], ROLLOUT_COLUMNS, head=len(rows) == 1)
    for count in [] if args.episodes else args.num_envs:
        modes = ["gymnasium sync", "local"]
        modes += [
            f"{k} workers{kind}" for k in args.workers if k <= count for kind in ("", ", async")
        ]
        for mode in modes:
            row = in_own_process(_steps, args, kwargs, mode, count)
            single = next((r for r in rows if r["mode"] == mode and r["envs"] == 1), None)
            if single is not None:
                row["kB per env"] = (row["MB"] - single["MB"]) * 1e3 / (count - 1)
            rows.append(row)
            _print_row(row, COLUMNS, head=len(rows) == 1)
    if args.json is not None:
        write_json(args.json, rows)


COLUMNS = (
    *("mode", "envs", "steps/s", "steps per CPU-s", "us here", "us in workers"),
    *("MB", "kB per env", "make s"),
)
ROLLOUT_COLUMNS = ("mode", "episodes/s", "with start", "us here", "us in workers")


def _print_row(row: dict[str, Any], columns: Sequence[str], *, head: bool) -> None:
    if head:
        print(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}")
    cells = [row.get(name, "-") for name in columns]
    shown = [f"{c:,.0f}" if isinstance(c, float) and c > 20 else c for c in cells]
    print(f"| {' | '.join(f'{c:.2f}' if isinstance(c, float) else str(c) for c in shown)} |")
    sys.stdout.flush()


def _steps(
    args: argparse.Namespace, kwargs: dict[str, Any], mode: str, count: int
) -> dict[str, Any]:
    start = time.perf_counter()
    vec = _make(args.env, count, mode, kwargs)
    made = time.perf_counter() - start
    play = _play_async if mode.endswith("async") else _play
    rng = random.Random(0)
    vec.reset(seed=0)
    play(vec, args.warm_up // count, rng)
    rates, here, in_workers = [], [], []
    for _ in range(args.repeats):
        clock, own, all_cpu = time.perf_counter(), time.process_time(), _cpu_seconds()
        steps = play(vec, args.steps // count, rng)
        rates.append(steps / (time.perf_counter() - clock))
        here.append(1e6 * (time.process_time() - own) / steps)
        # The clock of other processes has ticks of 10 ms.
        in_workers.append(max(0.0, 1e6 * (_cpu_seconds() - all_cpu) / steps - here[-1]))
    memory = sum(map(_private_bytes, _family(os.getpid()))) / 1e6
    vec.close()
    return {
        "mode": mode,
        "envs": count,
        "steps/s": statistics.median(rates),
        "steps/s of each": rates,
        "steps per CPU-s": 1e6
        / statistics.median(a + b for a, b in zip(here, in_workers, strict=True)),
        "us here": statistics.median(here),
        "us in workers": statistics.median(in_workers),
        "MB": memory,
        "make s": made,
    }


def _collect(args: argparse.Namespace, kwargs: dict[str, Any], workers: int) -> dict[str, Any]:
    """Measure `collect` with some worker processes; with 0, in this process."""
    kwargs = {"admissible_actions": True, **kwargs}
    env = gym.make(args.env, **kwargs)
    ids = env.get_wrapper_attr("task_set").ids
    env.close()
    # All tasks before the second sample of any, so that what is measured is met before.
    planned = plan_episodes(ids, samples=math.ceil(args.episodes / len(ids)))
    planned = sorted(planned, key=lambda episode: episode.sample)[: args.episodes]
    spec = RolloutSpec(
        args.env, random_policy, env_kwargs=kwargs, slots=64, workers=max(1, workers)
    )
    rows = []
    for _ in range(args.repeats):
        launcher = _Clock(LocalLauncher(always_spawn=workers > 0))
        begun, cpu = time.perf_counter(), os.times()
        with tempfile.TemporaryDirectory() as folder:
            store = TrajectoryStore(Path(folder) / "trajectories.jsonl")
            gather(spec, planned, store=store, launcher=launcher)
        end, spent = time.perf_counter(), os.times()
        fifth = len(planned) // 5
        here = spent.user + spent.system - cpu.user - cpu.system
        children = spent.children_user + spent.children_system
        children -= cpu.children_user + cpu.children_system
        rows.append(
            {
                "episodes/s": (len(planned) - fifth)
                / (launcher.times[-1] - launcher.times[fifth - 1]),
                "with start": len(planned) / (end - begun),
                "us here": 1e6 * here / len(planned),
                "us in workers": 1e6 * children / len(planned),
            }
        )
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    mode = f"collect, {workers} workers" if workers else "collect, in process"
    return {"mode": mode, **medians, "runs": rows}


class _Clock:
    """Notes when a launcher yields each trajectory."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.times: list[float] = []

    def play(
        self, spec: RolloutSpec, episodes: Sequence[Episode]
    ) -> Generator[PlayedTrajectory, None, None]:
        for trajectory in self._launcher.play(spec, episodes):
            self.times.append(time.perf_counter())
            yield trajectory


def _make(
    env_id: str, count: int, mode: str, kwargs: dict[str, Any]
) -> gym.vector.VectorEnv[Any, Any, Any]:
    kwargs = {"admissible_actions": True, **kwargs}
    if mode == "gymnasium sync":
        return gym.make_vec(env_id, num_envs=count, vectorization_mode="sync", **kwargs)
    if mode != "local":
        kwargs |= {"vectorization": "process", "workers": int(mode.split()[0])}
    return gym.make_vec(env_id, num_envs=count, **kwargs)


def _play(vec: gym.vector.VectorEnv[Any, Any, Any], steps: int, rng: random.Random) -> int:
    *_, infos = vec.step(("look",) * vec.num_envs)
    for _ in range(steps):
        *_, infos = vec.step([_choose(own, rng) for own in infos["admissible_actions"]])
    return vec.num_envs * (steps + 1)


def _play_async(vec: gym.vector.VectorEnv[Any, Any, Any], steps: int, rng: random.Random) -> int:
    assert isinstance(vec, TextVectorEnv)
    wanted = vec.num_envs * steps
    sent = vec.num_envs
    vec.send_steps(range(vec.num_envs), ["look"] * vec.num_envs)
    while results := vec.receive():
        if sent < wanted:
            sent += len(results)
            vec.send_steps(
                [result.slot for result in results],
                [_choose(result.info["admissible_actions"], rng) for result in results],
            )
    return sent


def _choose(actions: list[str], rng: random.Random) -> str:
    if not actions:
        return "look"
    action = actions[int(rng.random() * len(actions))]
    if action == "search[<query>]":
        return f"search[{rng.choice(WORDS)} {rng.choice(WORDS)}]"
    return action


def _family(pid: int) -> Iterable[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def _cpu_seconds() -> float:
    ticks = 0
    for pid in _family(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


if __name__ == "__main__":
    main()
