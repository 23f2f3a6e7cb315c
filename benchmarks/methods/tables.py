"""What a panel of methods found, as tables, as numbers and as a plot.

The first table says how each method does and what it spent; the others compare the methods with
SFT, RFT and ETO on the same episodes of the same seeds.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eto_gym.agents.evaluation.measures import measure
from eto_gym.agents.evaluation.report import table, words
from eto_gym.agents.evaluation.statistics import PairedTest, compare
from eto_gym.files import write_json, write_text
from eto_gym.trajectories import Trajectory

REFERENCES = ("sft", "rft", "eto")
"""Methods that all others are compared with, where they are in the panel."""


class Outcome(NamedTuple):
    """What became of one method with one seed; no episodes where it made no policy.

    `remarks` say why it ended early, and what its trainings warned of.
    """

    episodes: Sequence[Trajectory]
    env_steps: int
    tokens: int
    remarks: str


def show(found: Mapping[str, Mapping[int, Outcome]], out: Path) -> None:
    """Write the tables, their numbers and the plot of what is there so far.

    Args:
        found: Outcome by method and seed; a seed that has no episodes is left out of the tables.
        out: Folder of `methods.md`, `methods.json` and `methods.png`.
    """
    played = {name: _played(outcomes) for name, outcomes in found.items()}
    played = {name: by_seed for name, by_seed in played.items() if by_seed}
    joined = {name: _joined(by_seed) for name, by_seed in played.items()}
    # Of every reference that is there, each other method's test against it.
    tests = {
        other: {name: compare(joined[other], joined[name]) for name in played if name != other}
        for other in REFERENCES
        if other in played
    }
    rows, data = [], []
    for name, by_seed in played.items():
        summary = measure(joined[name])
        env_steps = sum(o.env_steps for o in by_seed.values()) / len(by_seed)
        tokens = sum(o.tokens for o in by_seed.values()) / len(by_seed)
        rows.append(
            [
                *(name, str(len(by_seed)), str(summary.episodes), words(summary.success, 3)),
                *(words(summary.reward, 3), f"{env_steps:,.0f}", f"{tokens:,.0f}"),
            ]
        )
        data.append(
            {
                "method": name,
                "seeds": sorted(by_seed),
                "success": summary.success.mean,
                "low": summary.success.low,
                "high": summary.success.high,
                "reward": summary.reward.mean,
                "env_steps": env_steps,
                "tokens": tokens,
                "against": {
                    other: dataclasses.asdict(against[name])
                    for other, against in tests.items()
                    if name in against
                },
                "remarks": _remarks(found[name]),
            }
        )
    header = ["method", "seeds", "episodes", "success", "reward", "env steps", "tokens trained"]
    lines = table(header, rows)
    for other, against in tests.items():
        if against:
            lines += ["", *_against(other, against)]
    said = [
        f"{name}, seed {seed}: {why}"
        for name, outcomes in found.items()
        for seed, why in _remarks(outcomes).items()
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "methods.md", "\n".join([*lines, "", *said, ""]))
    write_json(out / "methods.json", data)
    _plot(data, out / "methods.png")


def _against(other: str, tests: Mapping[str, PairedTest]) -> list[str]:
    """Return the table that compares every method with `other` on the episodes of both."""
    rows = []
    for name, test in tests.items():
        counts = (test.episodes, test.gained, test.lost)
        rows.append([name, *map(str, counts), f"{test.p:.2g}", words(test.reward, 3)])
    return table([f"against {other}", "episodes", "gained", "lost", "p", "reward higher by"], rows)


def _played(outcomes: Mapping[int, Outcome]) -> dict[int, Outcome]:
    return {seed: outcome for seed, outcome in outcomes.items() if outcome.episodes}


def _remarks(outcomes: Mapping[int, Outcome]) -> dict[int, str]:
    return {seed: outcome.remarks for seed, outcome in outcomes.items() if outcome.remarks}


def _plot(data: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw success against tokens; without matplotlib there is the table alone."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="tight")
    axes = figure.add_subplot()
    for row in data:
        error = [[row["success"] - row["low"]], [row["high"] - row["success"]]]
        axes.errorbar(row["tokens"] + 1, row["success"], yerr=error, fmt="o", capsize=2)
        axes.annotate(row["method"], (row["tokens"] + 1, row["success"]), fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("tokens trained beyond SFT, per seed")
    axes.set_ylabel("success, 95% interval")
    figure.savefig(path, dpi=150)


def _joined(by_seed: Mapping[int, Outcome]) -> list[Trajectory]:
    """Join the episodes of all seeds; a task counts once for each seed."""
    return [
        dataclasses.replace(episode, task_id=f"{seed}:{episode.task_id}")
        for seed, outcome in by_seed.items()
        for episode in outcome.episodes
    ]
