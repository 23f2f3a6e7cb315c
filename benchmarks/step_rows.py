"""Measure how fast rows of bounded prompts train: padded, and with their beginnings shared.

    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.step_rows --episodes 4

A scripted player plays aimlessly to the step limit, 40 steps on ALFWorld, and each reply was given
to a bounded part of the conversation (`--history`), so that an episode is some 40 rows. A model
with random weights trains on them twice: on padded rows, and on rows that share their beginnings in
a tree (`share_prefix`). Each measurement is a process of its own; the losses must be equal.

It prints the table of `eto_gym.benchmarks.sft`, whose docstring explains the columns, and the ratio
of the tokens per CPU second.
"""

from __future__ import annotations

import argparse
import tempfile
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
    parser.add_argument("--env", default="alfworld")
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--history", default="state")
    parser.add_argument("--prompt-style", choices=get_args(PromptStyle), default="instruction")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=16, help="rows per pass")
    parser.add_argument("--steps", type=int, default=1, help="passes over all rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = made_rows(args, folder)
        # Whole passes of so many rows; the few that are left over are not measured.
        rows = rows[: len(rows) // args.micro_batch * args.micro_batch]
        write_json(folder / "rows.json", rows)
        tokens = sum(len(ids) for ids, _ in rows)
        print(f"{len(rows)} rows of history {args.history}, {tokens} tokens, {args.steps} steps")
        group = [
            sft.run(
                sft.Job(
                    variant=variant,
                    model=str(folder / "model"),
                    rows=str(folder / "rows.json"),
                    batch=len(rows),
                    micro_batch=args.micro_batch,
                    steps=args.steps,
                    learning_rate=1e-4,
                    method="full",
                    precision="fp32",
                    checkpointing=False,
                    seed=args.seed,
                )
            )
            for variant in ("padded", "tree")
        ]
    sft.show(group)
    ratio = group[1]["tokens_per_cpu_s"] / group[0]["tokens_per_cpu_s"]
    print(f"shared / padded: {ratio:.2f} times the tokens per CPU second")
    if args.json:
        write_json(args.json, {"options": vars(args) | {"json": str(args.json)}, "rows": group})


def made_rows(args: argparse.Namespace, folder: Path) -> list[Any]:
    """Play, build a model whose vocabulary is of what was said, and return the rows."""
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer
    from eto_gym.trainers.data.encoding import encode_trajectories
    from eto_gym.trainers.model.models import default_codec

    played = play(args.env, args.episodes, args.prompt_style, args.history)
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
    rows, _ = encode_trajectories(default_codec(tokenizer), played, max_length=8192)
    return [(row.ids, row.mask) for row in rows]


if __name__ == "__main__":
    main()
