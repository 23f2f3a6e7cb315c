r"""Compare SFT with several history settings: success, prompt tokens and time.

    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.history_sft --out runs/history
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.history_sft --out runs/history \
        --shared-base --train-tasks 300 --base-tasks 800 --eval-tasks 300

Each setting trains and plays with the same tasks, seed and sizes: the quickstart's base stage, SFT
on the scripted expert's demonstrations, and a greedy evaluation of SFT alone on held-out games. The
default is small: it shows that all of it runs, and too little is learnt to compare. A run that was
stopped goes on where it was when the same command is started again; what is finished is not done
again, and a training goes on from its last epoch.

With `--shared-base` the base model of the first setting is the start of all: they are trained from
the same weights, and the base stage, which is as costly as SFT, is made once. It has then met the
conversations of the first setting alone, which favours that one if anything; without the option
each setting has a base stage of its own, as a run of the loop has.

Columns:
    success: of SFT on the held-out games, with its 95% interval.
    prompt: prompt tokens per reply in that evaluation.
    train s, play s: seconds of the SFT stage, and of the evaluation.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eto_gym.files import write_json
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.stage_data import load_trajectories, model_of
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trainers.settings.presets import from_preset


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and write it as JSON beside the run folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/history"))
    parser.add_argument("--histories", nargs="+", default=["full", "last:4", "state"])
    parser.add_argument("--env", default="ETO/ALFWorld-v0")
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--model", default="", help="a model's folder; default: the preset's")
    parser.add_argument("--train-tasks", type=int, default=8, help="default 8, which is too few")
    parser.add_argument("--base-tasks", type=int, default=8, help="of the base stage, if any")
    parser.add_argument("--eval-tasks", type=int, default=8)
    parser.add_argument("--shared-base", action="store_true", help="one base stage for all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    table = []
    for history in args.histories:
        row, start = measure(args, history)
        if args.shared_base:
            args.model = start
        table.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        write_json(args.out / "comparison.json", table)


class SFTLoop(Loop[ETOSettings]):
    """The beginning of every loop that has experts, without an evaluation of the start model."""

    method = "history-sft"

    def _run_stages(self) -> None:
        start = self.train.start_model(evaluated=False)
        experts = self.data.experts(self.settings)
        sft = self.train.sft("sft", self.settings.sft, start, experts)
        self.play.evaluate("SFT", "sft", sft)
        self.start = model_of(start)


def measure(args: argparse.Namespace, history: str) -> tuple[dict[str, Any], str]:
    """Run one setting to its end; return its row, and the model that it began with."""
    settings = from_preset(
        ETOSettings,
        args.preset,
        env=args.env,
        history=history,
        iterations=0,
        control=False,
        train_tasks=args.train_tasks,
        eval_tasks=args.eval_tasks,
        dev_tasks=0,
        seed=args.seed,
        progress=False,
        **({"model": args.model} if args.model else {}),
    )
    base = dataclasses.replace(settings.base, tasks=args.base_tasks)
    settings = dataclasses.replace(settings, base=base)
    loop = SFTLoop(settings, args.out / history.replace(":", "-"))
    report = loop.run()
    (sft,) = (row for row in report["policies"] if row["policy"] == "SFT")
    stages = {stage["name"]: stage["seconds"] for stage in report["stages"]}
    (played,) = (one.evaluation for one in loop.play.evaluated if one.label == "SFT")
    episodes = load_trajectories(played)
    replies = sum(len(t.steps) for t in episodes)
    prompt = sum(t.usage.get("prompt_tokens", 0) for t in episodes)
    row = {
        "history": history,
        "success": sft["success"],
        "episodes": sft["episodes"],
        "prompt": round(prompt / max(1, replies), 1),
        "train s": round(stages["sft"], 1),
        "play s": round(stages["eval-sft"], 1),
    }
    return row, loop.start


if __name__ == "__main__":
    main()
