"""Run a panel of methods from one SFT model, over seeds, and put them into one table and one plot.

    python -m eto_gym.benchmarks.methods --env alfworld --preset quickstart --seeds 0 1 2
    python -m eto_gym.benchmarks.methods --env webshop --methods eto kto grpo --set iterations=2

    python -m eto_gym.benchmarks.methods --env alfworld --env-steps 40000 --tokens 1500000
    python -m eto_gym.benchmarks.methods --env scienceworld --size tiny --seeds 0

All methods of a seed share a run folder: the start model, the demonstrations, SFT and what they
explore alike are made once. What is finished is not done again, so a run that was killed goes on.
Every method trains on the same demonstrated tasks and is evaluated on the same held-out ones. What
each spent beyond SFT stands beside it: steps in the environment, and tokens trained on (those of
every pass). Further tables compare every method with SFT, RFT and ETO, task by task and over all
seeds.

`--env-steps` and `--tokens` give every method the same budget beyond SFT: the number of tasks,
rounds or optimizer steps that it makes of these is told by the lengths of SFT's episodes and of the
demonstrations (`budget.py`). What was really spent is in the table. `--set` gives all methods one
value of a setting, where they have it. `--size tiny` makes everything small, to see that it runs:
it shows nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eto_gym.benchmarks.methods.budget import Budget, lengths_of, within
from eto_gym.benchmarks.methods.tables import Outcome, show
from eto_gym.cli.train import LOOPS
from eto_gym.errors import EtoGymError, unknown_name
from eto_gym.registration import resolve_env_id
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.report import CONTROL
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.fields import build, fields_of, nested
from eto_gym.trainers.settings.presets import PRESETS, preset_values, read_yaml
from eto_gym.trajectories import Trajectory, TrajectoryStore

SHARED = ("model", "base-play", "base", "experts", "sft", "control")
"""Stages, by the beginning of their names, that count for no method. What early experience does of
SFT takes SFT's place: its stage "sft-world" is none beyond it."""


PLAYED = ("trajectories", "branches", "values")
"""Names of the files in which a stage keeps episodes that it played."""


class Method(NamedTuple):
    """A row of the panel: a loop, and the settings in which it differs from the preset."""

    loop: str
    changes: dict[str, Any]


WHOLE = {"pairing.cut": "none"}
"""Failures are not cut at their error, as the papers have it, whatever the preset says."""

UNPAIRED = {"dpo.loss": "kto", "pairing.contrast": "unpaired", "dpo.undesirable_weight": 0.0}
"""Successes and failures each by themselves, and both kinds of the same weight."""

NO_SFT_TERM = {"dpo.sft_weight": 0.0}
"""Of losses that take none, whatever the preset gives the others."""

PANEL = {
    "sft": Method("eto", {"iterations": 0}),
    "rft": Method("rft", {}),
    "eto": Method("eto", WHOLE),
    "eto-dpop": Method("eto", {**WHOLE, "dpo.loss": "dpop"}),
    "dmpo": Method("eto", {**WHOLE, **NO_SFT_TERM, "dpo.loss": "dmpo"}),
    "kto": Method("eto", {**WHOLE, **UNPAIRED}),
    "kto-first-error": Method("eto", {**UNPAIRED, "pairing.cut": "first-error"}),
    "kto-pairs": Method("eto", {**WHOLE, "dpo.loss": "kto"}),
    "eto-first-error": Method("eto", {"pairing.cut": "first-error"}),
    "eto-final-error": Method("eto", {"pairing.cut": "final-error"}),
    "simpo": Method("eto", {**WHOLE, "dpo.loss": "simpo", "dpo.beta": 2.0}),
    "orpo": Method("eto", {**WHOLE, **NO_SFT_TERM, "dpo.loss": "orpo"}),
    "step-dpo": Method("step-dpo", {}),
    "step-dpo-exact": Method("step-dpo", {"steps.reward": "exact"}),
    "mixture": Method("mixture", {}),
    "hpl": Method("hpl", {}),
    "hpl-exact": Method("hpl", {"steps.reward": "exact", "groups.reward": "exact"}),
    "early-experience": Method("early-experience", {}),
    "grpo": Method("grpo", {}),
    "gigpo": Method("grpo", {"group.advantage": "gigpo"}),
    "cost-to-go": Method("grpo", {"group.advantage": "cost-to-go", "group.advantage_weight": 0.1}),
    "milestones": Method("grpo", {"group.advantage": "milestones"}),
    "ppo": Method("ppo", {}),
}
"""Name in the table -> what is run. "sft" makes SFT and the control, which is more SFT."""

MAIN = [
    "sft", "rft", "eto", "eto-first-error", "step-dpo", "hpl", "kto", "dmpo", "grpo", "gigpo",
    "cost-to-go", "ppo",
]  # fmt: skip
"""What is run where no methods are named."""

TINY: dict[str, Any] = {
    "train_tasks": 12, "explore_tasks": 6, "explore_samples": 2, "step_tasks": 2, "eval_tasks": 8,
    "dev_tasks": 0, "max_steps": 8, "max_new_tokens": 24, "slots": 16,
    "base.tasks": 12, "base.steps": 4, "base.vocab_size": 400, "base.hidden_size": 32,
    "base.layers": 1, "base.heads": 2, "base.kv_heads": 1, "base.mlp_size": 64,
    "base.context": 8192, "base.train.max_length": 8192, "sft.max_length": 8192, "sft.epochs": 1.0,
    "dpo.max_length": 8192, "dpo.epochs": 1.0, "mixture.max_length": 8192, "mixture.epochs": 1.0,
    "group.max_length": 8192, "ppo.max_length": 8192, "max_context": 8192,
    "pairing.contrast": "expert", "steps.rollouts": 2, "groups.rollouts": 2,
    "experience.tries": 2, "experience.source": "random",
    "world.max_length": 8192, "world.epochs": 1.0, "ppo.rounds": 1,
    "ppo.episodes": 8, "group.max_steps": 1, "group.batch_size": 8, "group.micro_batch_size": 8,
    "group.generations": 4, "workers": 1,
}  # fmt: skip
"""Settings with which every method ends in a minute or two, having learnt nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the panel, or what is left of it; write and print the table.

    Returns:
        1 where a method failed (its row says why, the others went on), 2 where nothing can be run.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="ETO/ALFWorld-v0")
    parser.add_argument("--model", default="", help="model to start from; empty: the preset's")
    parser.add_argument("--preset", choices=PRESETS, default="quickstart")
    parser.add_argument(
        "--methods", nargs="+", choices=PANEL, default=MAIN, metavar="NAME", help=", ".join(PANEL)
    )
    parser.add_argument(
        "--size", choices=("preset", "tiny"), default="preset", help="sizes of everything"
    )
    parser.add_argument("--env-steps", type=int, default=0, help="of each method; 0: the preset's")
    parser.add_argument("--tokens", type=int, default=0, help="trained on; 0: the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="values")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    args = parser.parse_args(argv)
    names = ["sft", *dict.fromkeys(name for name in args.methods if name != "sft")]
    try:
        plans = _plans(args, names)
    except EtoGymError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    budget = Budget(args.env_steps, args.tokens)
    found: dict[str, dict[int, Outcome]] = {}
    failed = False
    for (seed, name), settings in plans.items():
        try:
            run_one(PANEL[name], name, settings, budget, args.out / f"s{seed}", found)
        except EtoGymError as err:
            print(f"error: {name}, seed {seed}: {err}", file=sys.stderr)
            if name == "sft":  # all others are told by it
                return 2
            failed = True
            found.setdefault(name, {})[seed] = Outcome([], 0, 0, str(err))
        show(found, args.out)
    print((args.out / "methods.md").read_text("utf-8"))
    return int(failed)


def _plans(args: argparse.Namespace, names: Sequence[str]) -> dict[tuple[int, str], Any]:
    """Return the settings of every run, in order; what cannot be is refused before any begins.

    SFT comes first with each seed, since the others' budgets are told by the lengths of its
    episodes.
    """
    env = resolve_env_id(args.env)
    given = _values(args.values)
    kinds = [getattr(loops, LOOPS[PANEL[name].loop].settings) for name in names]
    known = {item.name for kind in kinds for item in fields_of(kind)}
    for name in given:
        if name not in known:
            raise unknown_name("setting", name, sorted(known))
    values = {**(TINY if args.size == "tiny" else {}), **given}
    if args.model:
        values["model"] = args.model
    try:
        return {
            (seed, name): settings_of(PANEL[name], env, args.preset, {**values, "seed": seed})
            for seed in args.seeds
            for name in names
        }
    except TypeError as err:  # compared with a number before its kind was looked at
        raise SettingsError(f"a value of --set is of the wrong kind ({err})") from err


def run_one(
    method: Method,
    name: str,
    settings: Any,
    budget: Budget,
    out: Path,
    found: dict[str, dict[int, Outcome]],
) -> None:
    """Run a method with a seed, and add what it made, SFT and the control, to `found`."""
    seed = settings.seed
    if name == "sft":
        settings = dataclasses.replace(settings, control=True, control_tokens=budget.tokens)
    elif budget.env_steps or budget.tokens:
        settings = within(budget, method.loop, settings, lengths_of(out))
    entry = LOOPS[method.loop]
    loop: Loop[Any] = getattr(importlib.import_module(entry.module), entry.loop)(settings, out)
    report = loop.run()
    own = [row for row in loop.play.evaluated if row.label not in ("SFT", CONTROL)]
    spent = _spent(loop)
    if name != "sft":
        # One that found nothing to learn from has made no policy: its row says so.
        episodes = _load(own[-1].evaluation.path) if own else []
        said = [report["ended"], *_warnings(loop)]
        remarks = "; ".join(dict.fromkeys(filter(None, said)))
        found.setdefault(name, {})[seed] = Outcome(episodes, *spent, remarks)
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
    # SFT's row has the control, and no table has the start model.
    left_out = {"control": False, "eval_start": False}
    return dataclasses.replace(
        settings, **{k: v for k, v in left_out.items() if hasattr(settings, k)}
    )


def _own_stages(loop: Loop[Any]) -> list[Stage]:
    """Return what the method did beyond SFT, evaluations excepted."""
    stages = loop.play.folder.stages
    return [stage for stage in stages if not stage.name.startswith((*SHARED, "eval-"))]


def _warnings(loop: Loop[Any]) -> list[str]:
    """Return what trainings warned of, such as a collapse that ended one."""
    results = [stage.result for stage in _own_stages(loop) if isinstance(stage.result, dict)]
    return [warning for result in results for warning in result.get("warnings", ())]


def _spent(loop: Loop[Any]) -> tuple[int, int]:
    """Count what the method's own stages spent: steps in the environment, tokens trained."""
    steps = tokens = 0
    for stage in _own_stages(loop):
        tokens += _tokens(stage.result)
        kept = [path for name in PLAYED if (path := stage.path / f"{name}.jsonl").exists()]
        for path in kept:
            steps += sum(map(played_steps, TrajectoryStore(path).load()))
        steps += _played(stage.result, loop.settings)
        if not kept and "alternatives" in (stage.result or {}):
            # Exact steps: the experts' are repeated, and each alternative is tried.
            steps += int(stage.result["steps"]) + int(stage.result["alternatives"])
    return steps, tokens


def played_steps(trajectory: Trajectory) -> int:
    """Count the steps of an episode that were played: those that a snapshot held have no facts."""
    if not any(trajectory.facts):
        return len(trajectory.steps)
    return sum(map(bool, trajectory.facts))


def _played(result: Any, settings: Any) -> int:
    """Count the steps of rounds that a model in training played, from their metrics."""
    metrics = result.get("metrics", []) if isinstance(result, dict) else []
    if hasattr(settings, "ppo"):
        turns: float = sum(m.get("turns", 0.0) for m in metrics)
        return round(turns * int(settings.ppo.episodes))
    steps: float = sum(m.get("env_steps", 0.0) for m in metrics)
    return round(steps)


def _tokens(result: Any) -> int:
    if not isinstance(result, dict) or "tokens_per_second" not in result:
        return 0
    return round(float(result["tokens_per_second"]) * float(result["seconds"]))


def _load(folder: Path) -> list[Trajectory]:
    return TrajectoryStore(folder / TRAJECTORIES).load()


def _values(words_: Sequence[str]) -> dict[str, Any]:
    found = {}
    for word in words_:
        name, equals, value = word.partition("=")
        if not equals:
            raise SettingsError(f"--set wants NAME=VALUE, got {word!r}")
        found[name] = read_yaml(value, f"--set {name}")
    return found


def _merge(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in more.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merge(before, value)
        merged[name] = value
    return merged


if __name__ == "__main__":
    sys.exit(main())
