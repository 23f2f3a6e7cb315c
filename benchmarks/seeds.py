"""Run ETO and RFT over several seeds with as many iterations each, and test the one by the other.

    python -m eto_gym.benchmarks.seeds --seeds 0 1 2 --iterations 2 --out runs/seeds

Both methods of a seed share one run folder, so that the base model, the demonstrations, SFT and the
first exploration are made once. What is finished is not done again. A row compares two policies on
the same held-out tasks; the last table joins the tasks of all seeds, each seed with its own models
and order of tasks, in one test.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eto_gym.agents.evaluation.measures import measure
from eto_gym.agents.evaluation.report import table, words
from eto_gym.agents.evaluation.statistics import compare
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.rft import RFTLoop
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.settings.loops import ETOSettings, RFTSettings
from eto_gym.trainers.settings.presets import PRESETS, from_preset
from eto_gym.trajectories import Trajectory, TrajectoryStore

Evaluations = Mapping[str, Sequence[Trajectory]]
"""Name of a policy, such as "sft" or "eto-2" -> its held-out episodes."""


def main(argv: Sequence[str] | None = None) -> None:
    """Train, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="quickstart")
    parser.add_argument("--env", default="ETO/ALFWorld-v0")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    args = parser.parse_args(argv)
    by_seed = {seed: run(args, seed) for seed in args.seeds}
    for seed, evaluations in by_seed.items():
        show(f"seed {seed}", evaluations, args.iterations)
    if len(by_seed) > 1:
        names = next(iter(by_seed.values()))
        joined = {name: _joined({s: found[name] for s, found in by_seed.items()}) for name in names}
        show(f"all {len(by_seed)} seeds", joined, args.iterations)


def run(args: argparse.Namespace, seed: int) -> Evaluations:
    """Run both methods of a seed; return the episodes of all policies."""
    changes: dict[str, Any] = {
        "env": args.env,
        "iterations": args.iterations,
        "seed": seed,
        "workers": args.workers,
    }
    out = args.out / f"s{seed}"
    loops: list[Loop[Any]] = [
        ETOLoop(from_preset(ETOSettings, args.preset, **changes), out),
        RFTLoop(from_preset(RFTSettings, args.preset, **changes, control=False), out),
    ]
    found: dict[str, Sequence[Trajectory]] = {}
    for loop in loops:
        loop.run()
        for stage in loop.play.folder.stages:
            kind, _, name = stage.name.partition("-")
            if kind == "eval":
                found[name] = TrajectoryStore(stage.path / TRAJECTORIES).load()
    return found


def show(title: str, evaluations: Evaluations, iterations: int) -> None:
    """Print the success of each policy, and the paired tests."""
    print(f"\n{title}\n")
    rows = []
    for name, episodes in evaluations.items():
        summary = measure(episodes)
        rows.append([name, str(summary.episodes), words(summary.success, 3)])
    print("\n".join(table(["policy", "episodes", "success"], rows)))
    print()
    pairs = [(f"{method}-{i}", "sft") for method in ("eto", "rft") for i in _count(iterations)]
    pairs += [(f"eto-{i}", f"rft-{i}") for i in _count(iterations)]
    pairs += [(f"eto-{i}", "control") for i in _count(iterations)]
    rows = []
    for after, before in pairs:
        test = compare(evaluations[before], evaluations[after])
        counts = [str(test.gained), str(test.lost), f"{test.p:.2g}"]
        rows.append([f"{after} against {before}", *counts])
    print("\n".join(table(["policies", "gained", "lost", "p"], rows)))


def _count(iterations: int) -> range:
    return range(1, iterations + 1)


def _joined(by_seed: Mapping[int, Sequence[Trajectory]]) -> list[Trajectory]:
    """Join the episodes of all seeds; a task counts once for each seed."""
    return [
        replace(episode, task_id=f"{seed}:{episode.task_id}")
        for seed, episodes in by_seed.items()
        for episode in episodes
    ]


if __name__ == "__main__":
    main()
