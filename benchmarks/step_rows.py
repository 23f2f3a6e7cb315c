"""Measure how fast rows of bounded prompts train: padded, and with their beginnings shared.

    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.step_rows --episodes 4
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.step_rows --method grpo --history full

A scripted player plays aimlessly to the step limit, 40 steps on ALFWorld, and each reply was given
to a bounded part of the conversation (`--history`), so that an episode is some 40 rows. A model
with random weights trains on them twice: on padded rows, and on rows that share their beginnings in
a tree (`share_prefix`). Each measurement is a process of its own; the losses must be equal.

With `--method grpo` or `rloo` each of the tasks is played `--group` times, and the learner's passes
over these episodes are measured, with made-up rewards: not the play. `--micro-batch` counts
episodes then. Padded rows go through the output layer that TRL fuses with the loss; on a CPU it
computes that for every token, on a GPU for sampled ones alone.

It prints the table of `eto_gym.benchmarks.sft`, whose docstring explains the columns, and the ratio
of the tokens per CPU second.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from eto_gym.benchmarks import sft
from eto_gym.benchmarks.history import play
from eto_gym.conversation import PromptStyle
from eto_gym.files import write_json


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and write it as JSON with `--json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=("sft", "grpo", "rloo"), default="sft")
    parser.add_argument("--env", default="alfworld")
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--history", default="state")
    parser.add_argument("--prompt-style", choices=get_args(PromptStyle), default="instruction")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument(
        "--micro-batch", type=int, help="rows per pass, or episodes; default: 16, 4"
    )
    parser.add_argument("--group", type=int, default=4, help="episodes of a task, for grpo, rloo")
    parser.add_argument("--steps", type=int, default=1, help="passes over all rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        print(json.dumps(measure_group(json.loads(args.worker))))
        return
    args.micro_batch = args.micro_batch or (16 if args.method == "sft" else 4)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        episodes = made_rows(args, folder)
        rows = [row for episode in episodes for row in episode]
        if args.method == "sft":
            # Whole passes of so many rows; the few that are left over are not measured.
            rows = rows[: len(rows) // args.micro_batch * args.micro_batch]
        write_json(folder / "rows.json", rows if args.method == "sft" else episodes)
        tokens = sum(len(ids) for ids, _ in rows)
        print(f"{len(rows)} rows of history {args.history}, {tokens} tokens, {args.steps} steps")
        job = sft.Job(
            variant="padded",
            model=str(folder / "model"),
            rows=str(folder / "rows.json"),
            batch=len(rows if args.method == "sft" else episodes),
            micro_batch=args.micro_batch,
            steps=args.steps,
            learning_rate=1e-4,
            method="full",
            precision="fp32",
            checkpointing=False,
            seed=args.seed,
        )
        jobs = [dataclasses.replace(job, variant=variant) for variant in ("padded", "tree")]
        group = [
            sft.run(job) if args.method == "sft" else run_group(job, args.method, args.group)
            for job in jobs
        ]
    sft.show(group)
    ratio = group[1]["tokens_per_cpu_s"] / group[0]["tokens_per_cpu_s"]
    print(f"shared / padded: {ratio:.2f} times the tokens per CPU second")
    if args.json:
        write_json(args.json, {"options": vars(args) | {"json": str(args.json)}, "rows": group})


def run_group(job: sft.Job, method: str, group: int) -> dict[str, Any]:
    """Measure GRPO or RLOO in a process of its own."""
    work = json.dumps({**dataclasses.asdict(job), "method": method, "group": group})
    command = [sys.executable, "-m", "eto_gym.benchmarks.step_rows", "--worker", work]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {**dataclasses.asdict(job), **json.loads(done.stdout.splitlines()[-1])}


def measure_group(job: dict[str, Any]) -> dict[str, Any]:
    """Learn from given episodes, and return what it took, as `sft.measure` does."""
    from types import SimpleNamespace

    from eto_gym.benchmarks.meter import resident
    from eto_gym.trainers.data.encoding import TokenRow
    from eto_gym.trainers.data.sampled import EpisodeRows
    from eto_gym.trainers.methods import group
    from eto_gym.trainers.methods.episode_source import EpisodeSource
    from eto_gym.trainers.model.models import (
        default_codec,
        load_for_training,
        load_tokenizer,
        quiet_libraries,
    )
    from eto_gym.trainers.run.callbacks import set_callbacks
    from eto_gym.trainers.settings.methods import GroupSettings

    episodes = [
        EpisodeRows([TokenRow(*row) for row in rows], len(rows))
        for rows in json.loads(Path(job["rows"]).read_text())
    ]

    class GivenEpisodes(EpisodeSource):
        """Plays nothing."""

        def play(self, task_ids: Sequence[str], trainer: Any) -> None:
            self.episodes = episodes
            self.rewards = [float(i % 3 == 0) for i in range(len(episodes))]
            self.tokens_seen += sum(episode.tokens for episode in episodes)

    settings = GroupSettings(
        learning_rate=job["learning_rate"],
        max_steps=job["steps"],
        batch_size=job["batch"],
        micro_batch_size=job["micro_batch"],
        generations=job["group"],
        max_length=8192,
        warmup_ratio=0,
        precision="fp32",
        seed=job["seed"],
        share_prefix="on" if job["variant"] == "tree" else "off",
    )
    tokenizer = load_tokenizer(job["model"])
    tokenizer.padding_side = "left"
    tasks: Any = SimpleNamespace(task_ids=[f"task-{i}" for i in range(job["batch"])])
    made = group.PlayedGRPOTrainer if job["method"] == "grpo" else group.PlayedRLOOTrainer
    with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
        start = resident(reset=True)
        trainer = made(
            settings,
            model=load_for_training(job["model"], settings),
            source=GivenEpisodes(tasks, default_codec(tokenizer), settings),
            tokenizer=tokenizer,
            workspace=Path(scratch),
        )
        trainer.args.save_strategy = "no"
        set_callbacks(trainer)
        clocks = time.perf_counter(), time.process_time()
        trainer.train()
        wall, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        held, peak = resident(), resident(peak=True)
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "peak_mb": peak - start,
        "training_mb": peak - start,
        "held_mb": held - start,
        "cpu_s": cpu,
        "wall_s": wall,
        "tokens_per_cpu_s": trainer.tokens_seen / cpu,
        "tokens_per_s": trainer.tokens_seen / wall,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "share_prefix": trainer.notes["share_prefix"],
    }


def made_rows(args: argparse.Namespace, folder: Path) -> list[list[Any]]:
    """Play, build a model whose vocabulary is of what was said, and return each episode's rows."""
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer
    from eto_gym.trainers.data.encoding import encode_trajectories
    from eto_gym.trainers.model.models import default_codec

    samples = 1 if args.method == "sft" else args.group
    played = play(args.env, args.episodes, args.prompt_style, args.history, samples=samples)
    tokenizer = train_tokenizer([m.content for t in played for m in t.messages], vocab_size=2048)
    model = build_model(
        tokenizer,
        hidden_size=args.hidden,
        layers=args.layers,
        heads=4,
        kv_heads=2,
        mlp_size=3 * args.hidden,
        context=8192,
        seed=args.seed,
    )
    save_tiny(model, tokenizer, folder / "model")
    codec = default_codec(tokenizer)
    return [
        [(row.ids, row.mask) for row in encode_trajectories(codec, [one], max_length=8192)[0]]
        for one in played
    ]


if __name__ == "__main__":
    main()
