"""Run a panel of methods from one SFT model, over seeds, and put them into one table and one plot.

    python -m eto_gym.benchmarks.methods --env alfworld --preset quickstart --seeds 0 1 2
    python -m eto_gym.benchmarks.methods --env webshop --methods eto kto grpo --set iterations=2

All methods of a seed share a run folder: the start model, the demonstrations, SFT and what they
explore alike are made once. What is finished is not done again, so a run that was killed goes on.
Every method trains on the same demonstrated tasks and is evaluated on the same held-out ones. What
each spent beyond SFT stands beside it: steps in the environment, and tokens trained on (those of
every pass). `--set` gives all methods one value of a setting, and so equal budgets, where they have
it. A row compares a method with SFT, task by task, over all seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eto_gym.agents.evaluation.measures import measure
from eto_gym.agents.evaluation.report import table, words
from eto_gym.agents.evaluation.statistics import compare
from eto_gym.cli.train import LOOPS
from eto_gym.errors import check_choice
from eto_gym.files import write_json, write_text
from eto_gym.registration import resolve_env_id
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.report import CONTROL
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.fields import build, fields_of, nested
from eto_gym.trainers.settings.presets import PRESETS, preset_values
from eto_gym.trajectories import Trajectory, TrajectoryStore

SHARED = ("model", "base-play", "base", "experts", "sft", "control")
"""Stages, by the beginning of their names, that count for no method."""


class Method(NamedTuple):
    """A row of the panel: a loop, and the settings in which it differs from the preset."""

    loop: str
    changes: dict[str, Any]


PANEL = {
    "rft": Method("rft", {}),
    "eto": Method("eto", {}),
    "eto-dpop": Method("eto", {"dpo.loss": "dpop"}),
    "dmpo": Method("eto", {"dpo.loss": "dmpo"}),
    "kto": Method("eto", {"dpo.loss": "kto"}),
    "simpo": Method("eto", {"dpo.loss": "simpo", "dpo.beta": 2.0}),
    "orpo": Method("eto", {"dpo.loss": "orpo"}),
    "step-dpo": Method("step-dpo", {}),
    "step-dpo-exact": Method("step-dpo", {"steps.reward": "exact"}),
    "mixture": Method("mixture", {}),
    "grpo": Method("grpo", {}),
    "gigpo": Method("grpo", {"group.advantage": "gigpo"}),
    "cost-to-go": Method("grpo", {"group.advantage": "cost-to-go", "group.advantage_weight": 0.1}),
    "milestones": Method("grpo", {"group.advantage": "milestones"}),
    "ppo": Method("ppo", {}),
}
"""Name in the table -> what is run. SFT and the control, of ETO, are there of themselves."""


class Outcome(NamedTuple):
    """What became of one method with one seed."""

    episodes: Sequence[Trajectory]
    env_steps: int
    tokens: int
    ended: str


def main(argv: Sequence[str] | None = None) -> None:
    """Run the panel, or what is left of it; write and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="ETO/ALFWorld-v0")
    parser.add_argument("--model", default="", help="model to start from; empty: the preset's")
    parser.add_argument("--preset", choices=PRESETS, default="quickstart")
    parser.add_argument("--methods", nargs="+", choices=PANEL, default=list(PANEL), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="values")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    args = parser.parse_args(argv)
    env = resolve_env_id(args.env)
    values = _values(args.values)
    if args.model:
        values["model"] = args.model
    found: dict[str, dict[int, Outcome]] = {}
    for seed in args.seeds:
        for name in args.methods:
            method = PANEL[check_choice("method", name, PANEL)]
            run_one(method, name, env, args.preset, values, seed, args.out / f"s{seed}", found)
            show(found, args.out)
    print((args.out / "methods.md").read_text("utf-8"))


def run_one(
    method: Method,
    name: str,
    env: str,
    preset: str,
    values: Mapping[str, Any],
    seed: int,
    out: Path,
    found: dict[str, dict[int, Outcome]],
) -> None:
    """Run a method with a seed, and add what it made, SFT and the control, to `found`."""
    settings = settings_of(method, env, preset, {**values, "seed": seed})
    entry = LOOPS[method.loop]
    loop: Loop[Any] = getattr(importlib.import_module(entry.module), entry.loop)(settings, out)
    report = loop.run()
    own = [row for row in loop.play.evaluated if row.label not in ("SFT", CONTROL)][1:]
    spent = _spent(loop)
    if own:
        episodes = _load(own[-1].evaluation.path)
        found.setdefault(name, {})[seed] = Outcome(episodes, *spent, report["ended"] or "")
    for row in loop.play.evaluated:
        if row.label == "SFT":
            found.setdefault("sft", {})[seed] = Outcome(_load(row.evaluation.path), 0, 0, "")
        elif row.label == CONTROL:
            tokens = _tokens(row.model.result)
            episodes = _load(row.evaluation.path)
            found.setdefault("control", {})[seed] = Outcome(episodes, 0, tokens, "")


def settings_of(method: Method, env: str, preset: str, values: Mapping[str, Any]) -> Any:
    """Return a method's settings: the panel's changes over `values` over the preset.

    Of `values` those are left out that the method does not have.
    """
    kind = getattr(loops, LOOPS[method.loop].settings)
    own = {item.name for item in fields_of(kind)}
    changes = {name: value for name, value in values.items() if name in own}
    merged = _merge(
        preset_values(preset, env, kind, method=method.loop), nested({**changes, **method.changes})
    )
    settings = build(kind, {**merged, "env": env, "preset": preset})
    if method.loop != "eto" and hasattr(settings, "control"):
        settings = dataclasses.replace(settings, control=False)  # ETO's is every method's
    return settings


def show(found: Mapping[str, Mapping[int, Outcome]], out: Path) -> None:
    """Write the table, its numbers and the plot of what is there so far."""
    sft = found["sft"]
    rows, data = [], []
    for name, by_seed in found.items():
        episodes = _joined(by_seed)
        summary = measure(episodes)
        test = compare(_joined({seed: sft[seed] for seed in by_seed}), episodes)
        env_steps = sum(o.env_steps for o in by_seed.values()) / len(by_seed)
        tokens = sum(o.tokens for o in by_seed.values()) / len(by_seed)
        told = ["", "", ""] if name == "sft" else [
            str(test.gained), str(test.lost), f"{test.p:.2g}"
        ]  # fmt: skip
        rows.append(
            [
                *(name, str(len(by_seed)), str(summary.episodes), words(summary.success, 3)),
                *(words(summary.reward, 3), f"{env_steps:,.0f}", f"{tokens:,.0f}", *told),
            ]
        )
        data.append(
            {
                "method": name,
                "seeds": sorted(by_seed),
                "success": summary.success.mean,
                "low": summary.success.low,
                "high": summary.success.high,
                "env_steps": env_steps,
                "tokens": tokens,
                "p_against_sft": None if name == "sft" else test.p,
                "ended": {seed: o.ended for seed, o in by_seed.items() if o.ended},
            }
        )
    header = ["method", "seeds", "episodes", "success", "reward", "env steps", "tokens trained"]
    out.mkdir(parents=True, exist_ok=True)
    lines = table([*header, "gained", "lost", "p"], rows)
    ended = [f"{r['method']}: ended early with seeds {r['ended']}" for r in data if r["ended"]]
    write_text(out / "methods.md", "\n".join([*lines, "", *ended, ""]))
    write_json(out / "methods.json", data)
    _plot(data, out / "methods.png")


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


def _spent(loop: Loop[Any]) -> tuple[int, int]:
    """Count what the method's own stages spent: steps in the environment, tokens trained."""
    steps = tokens = 0
    for stage in loop.play.folder.stages:
        if stage.name.startswith((*SHARED, "eval-")):
            continue
        tokens += _tokens(stage.result)
        for path in stage.path.glob("*.jsonl"):
            if path.stem in ("trajectories", "branches", "values"):
                steps += sum(len(t.steps) for t in TrajectoryStore(path).load())
        steps += _played(stage.result, loop.settings)
    return steps, tokens


def _played(result: Any, settings: Any) -> int:
    """Count the steps of rounds that a model in training played, from their metrics."""
    metrics = result.get("metrics", []) if isinstance(result, dict) else []
    if hasattr(settings, "ppo"):
        return round(sum(m.get("turns", 0.0) for m in metrics) * settings.ppo.episodes)
    return round(sum(m.get("env_steps", 0.0) for m in metrics))


def _tokens(result: Any) -> int:
    if not isinstance(result, dict) or "tokens_per_second" not in result:
        return 0
    return round(result["tokens_per_second"] * result["seconds"])


def _load(folder: Path) -> list[Trajectory]:
    return TrajectoryStore(folder / TRAJECTORIES).load()


def _joined(by_seed: Mapping[int, Outcome]) -> list[Trajectory]:
    """Join the episodes of all seeds; a task counts once for each seed."""
    return [
        dataclasses.replace(episode, task_id=f"{seed}:{episode.task_id}")
        for seed, outcome in by_seed.items()
        for episode in outcome.episodes
    ]


def _values(words_: Sequence[str]) -> dict[str, Any]:
    import yaml

    return {
        name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words_)
    }


def _merge(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in more.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merge(before, value)
        merged[name] = value
    return merged


if __name__ == "__main__":
    main()
