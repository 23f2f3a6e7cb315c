"""Measure what training computes of real rows: padded, packed, and with their beginnings shared.

    python -m eto_gym.benchmarks.layouts
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.layouts --rows sft dpo --measure 2
    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.layouts --model FOLDER --measure 1 --batch 16

The benchmark's expert and a scripted player that plays aimlessly play the first tasks of the
training split. The default model is the tiny one, with random weights and a vocabulary of what was
said. Micro-batches are those of training, by the settings' defaults.

Kinds of rows:
    sft: the expert's episodes, one row each.
    steps: the same, played with a bounded history (`--history`): one row for each reply.
    dpo: the expert's episode of a task against the player's.
    ppo: episodes of the player, one of each task.
    grpo: groups of 4 episodes of the player, a task's own in each; half the tasks.

Columns:
    rows, tokens: what there is.
    padded: tokens of the forward passes over padded rows, those of similar length together.
    packed: the same without padding, each row by itself: always the tokens of the rows.
    tree: the same where a micro-batch computes once what its rows share, those of similar length
        together; ours: those that share most together, as training has it.
    auto: what `share_prefix="auto"` decides of these, on 4 micro-batches for all that are measured.
    CPU s: of the forward and backward passes over the first `--measure` optimizer batches, padded
        and by trees; times: the one over the other. The sums of log-probabilities must be equal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from eto_gym.benchmarks.history import play
from eto_gym.conversation import PromptStyle
from eto_gym.files import write_json

ENVS = ("alfworld", "webshop", "scienceworld")
KINDS = ("sft", "steps", "dpo", "ppo", "grpo")
GROUP = 4


class Cut(NamedTuple):
    """The rows of one kind, cut into micro-batches in both ways."""

    units: list[list[Any]]
    padded: list[list[int]]
    trees: list[list[int]]
    passes: int


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and write it as JSON with `--json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--episodes", type=int, default=64, help="tasks that are played")
    parser.add_argument("--prompt-style", choices=get_args(PromptStyle), default="instruction")
    parser.add_argument("--history", default="state", help="of the rows of steps")
    parser.add_argument("--model", type=Path, help="folder; default: the tiny model")
    parser.add_argument("--batch", type=int, help="units of an optimizer batch; default: settings'")
    parser.add_argument("--micro-batch", type=int, default=8, help="units of a pass")
    parser.add_argument("--measure", type=int, default=0, help="optimizer batches to be timed")
    parser.add_argument("--keep", type=Path, help="folder in which the tiny models stay")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as scratch:
        table = [
            row
            for env in args.envs
            for row in measure_env(env, args, (args.keep or Path(scratch)) / f"model-{env}")
        ]
    if args.json:
        command = " ".join(["python -m eto_gym.benchmarks.layouts", *(argv or sys.argv[1:])])
        write_json(args.json, {"command": command, "rows": table})


def measure_env(env: str, args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Measure every kind of rows of one environment, and print a line for each."""
    from eto_gym.trainers.data.trees import build_tree
    from eto_gym.trainers.model.layout import saving_of_trees
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    played = episodes_of(env, args)
    model = args.model or tiny_model(played, scratch)
    codec = default_codec(load_tokenizer(model))
    table = []
    for kind in args.rows:
        units = units_of(kind, played, codec)
        cut = cut_batches(kind, units, args.batch, args.micro_batch)
        rows = [row for unit in units for row in unit]

        def computed(batches: list[list[int]], units: list[list[Any]] = units) -> int:
            some = ([row for i in batch for row in units[i]] for batch in batches)
            return sum(build_tree(rows)["input_ids"].shape[1] for rows in some)

        lengths = [[len(row.ids) for i in batch for row in units[i]] for batch in cut.padded]
        saving = saving_of_trees(units, cut.padded, cut.trees, passes=cut.passes)
        entry: dict[str, Any] = {
            "env": env,
            "kind": kind,
            "rows": len(rows),
            "tokens": sum(len(row.ids) for row in rows),
            "padded": sum(len(some) * max(some) for some in lengths),
            "tree": computed(cut.padded),
            "ours": computed(cut.trees),
            "auto": f"{'on' if saving.enough else 'off'}: {saving}",
        }
        if args.measure:
            entry |= timed(model, cut, args.measure)
        print(json.dumps(entry), flush=True)
        table.append(entry)
    return table


def episodes_of(env: str, args: argparse.Namespace) -> dict[str, list[Any]]:
    """Play what the kinds of rows are made of."""
    from eto_gym.agents.policies import expert_policy

    style, count = args.prompt_style, args.episodes
    played: dict[str, list[Any]] = {}
    if {"sft", "dpo"} & set(args.rows):
        played["sft"] = play(env, count, style, "full", policy=expert_policy())
    if "steps" in args.rows:
        played["steps"] = play(env, count, style, args.history, policy=expert_policy())
    if {"dpo", "ppo"} & set(args.rows):
        played["ppo"] = play(env, count, style, "full")
    if "grpo" in args.rows:
        played["grpo"] = play(env, count // 2, style, "full", samples=GROUP)
    return played


def tiny_model(played: dict[str, list[Any]], folder: Path) -> Path:
    """Build the tiny model with a vocabulary of what was said."""
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    texts = [m.content for some in played.values() for one in some for m in one.messages]
    tokenizer = train_tokenizer(texts, vocab_size=2048)
    return save_tiny(build_model(tokenizer, context=16384), tokenizer, folder)


def units_of(kind: str, played: dict[str, list[Any]], codec: Any) -> list[list[Any]]:
    """Return the rows of every episode, row or pair, as training would have them."""
    from eto_gym.trainers.data.encoding import encode_trajectories

    def rows(episode: Any) -> list[Any]:
        return list(encode_trajectories(codec, [episode], max_length=1 << 20)[0])

    if kind == "dpo":
        return [rows(a) + rows(b) for a, b in zip(played["sft"], played["ppo"], strict=True)]
    if kind in ("sft", "steps"):
        return [[row] for episode in played[kind] for row in rows(episode)]
    return [rows(episode) for episode in played[kind]]


def cut_batches(kind: str, units: list[list[Any]], batch: int | None, micro: int) -> Cut:
    """Cut units as training does: by length, and by what they share."""
    from eto_gym.trainers.model.layout import ranks_of
    from eto_gym.trainers.run.base_trainer import bucket_sampler
    from eto_gym.trainers.settings.methods import DPOSettings, SFTSettings

    default = DPOSettings() if kind in ("dpo", "ppo") else SFTSettings()
    size = min(batch or default.batch_size, len(units) // micro * micro)
    settings = SFTSettings(batch_size=size, micro_batch_size=micro)
    lengths = [max(len(row.ids) for row in unit) for unit in units]
    padded, trees = (
        list(bucket_sampler(lengths, settings, ranks=ranks)) for ranks in (None, ranks_of(units))
    )
    return Cut(units, padded, trees, size // micro)


def timed(model: Path, cut: Cut, steps: int) -> dict[str, Any]:
    """Pass forward and back over the same optimizer batches in both ways, after a warm-up."""
    import torch

    from eto_gym.trainers.data.batching import pad_rows
    from eto_gym.trainers.data.trees import build_tree, score_tree
    from eto_gym.trainers.model.models import load_for_training, quiet_libraries
    from eto_gym.trainers.model.scoring import install_scorer
    from eto_gym.trainers.model.tree_attention import install_trees
    from eto_gym.trainers.settings.methods import SFTSettings

    with quiet_libraries():
        loaded = load_for_training(model, SFTSettings(precision="fp32"))
    install_scorer(loaded)
    if obstacle := install_trees(loaded):
        raise SystemExit(f"{model} cannot share: {obstacle}")

    def padded(rows: list[Any]) -> Any:
        batch = pad_rows(rows, 0)
        return loaded(input_ids=batch["input_ids"], score=batch["labels"])["token_logps"].sum()

    def tree(rows: list[Any]) -> Any:
        return score_tree(loaded, build_tree(rows)).sum()

    def passes(score: Any, batches: list[list[int]]) -> tuple[float, float]:
        begun, total = time.process_time(), 0.0
        for batch in batches:
            logps = score([row for i in batch for row in cut.units[i]])
            logps.backward()
            total += float(logps.detach())
        loaded.zero_grad(set_to_none=True)
        return time.process_time() - begun, total

    count = steps * cut.passes
    passes(padded, cut.padded[:1])
    passes(tree, cut.trees[:1])
    before, expected = passes(padded, cut.padded[:count])
    after, found = passes(tree, cut.trees[:count])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    return {
        "cpu_s_padded": round(before, 2),
        "cpu_s_tree": round(after, 2),
        "times": round(before / after, 2),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
