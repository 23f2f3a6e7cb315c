"""Count the tokens that a policy reads with each history setting, on the same episodes.

    python -m eto_gym.benchmarks.history --model FOLDER

A scripted player plays aimlessly to the step limit, as a model does that has not found the solution
(what it does depends on nothing that it reads, so all settings see the same episodes). Of every
reply the prompt is tokenised with the model's chat template, as a rollout would.

Columns:
    tokens: prompt tokens per reply, over all replies; last: of the last reply of each episode.
    ratio: tokens, over those of "full" with the same prompt style.
    rows, row tokens: what SFT makes of the episodes.
    in trees: tokens that are computed where the rows of one episode share their beginnings.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np

from eto_gym.agents.policies import player_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.engine import Rollout, plan_episodes
from eto_gym.conversation import PromptStyle
from eto_gym.files import write_json
from eto_gym.registration import resolve_env_id
from eto_gym.testing import text_env
from eto_gym.trajectories import Trajectory


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and write it as JSON with `--json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a tokenizer with a chat template")
    parser.add_argument("--env", default="alfworld")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--histories", nargs="+", default=["full", "last:4", "state"])
    parser.add_argument(
        "--prompt-styles", nargs="+", choices=get_args(PromptStyle), default=get_args(PromptStyle)
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)

    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    codec = default_codec(load_tokenizer(args.model))
    table = []
    for style in args.prompt_styles:
        full = 0.0
        for history in args.histories:
            played = play(args.env, args.episodes, style, history)
            row = {"style": style, "history": history, **count(codec, played)}
            full = full or row["tokens"]
            row["ratio"] = row["tokens"] / full
            table.append(row)
            print(
                "  ".join(f"{k} {v:,.2f}" if k == "ratio" else f"{k} {v}" for k, v in row.items())
            )
    if args.json:
        write_json(args.json, table)


def play(
    env: str,
    episodes: int,
    style: PromptStyle,
    history: str,
    *,
    samples: int = 1,
    policy: Policy | None = None,
) -> list[Trajectory]:
    """Play the first tasks of the training split, each `samples` times; the player by default."""
    env_id = resolve_env_id(env)

    def make() -> gym.Env[str, str]:
        return gym.make(env_id, admissible_actions=True)

    probe = make()
    tasks = text_env(probe).task_set.ids[:episodes]
    probe.close()
    policy = policy or player_policy()
    rollout = Rollout(make, policy, slots=8, prompt_style=style, history=history)
    played = rollout.play(plan_episodes(tasks, samples=samples))
    return sorted(played, key=lambda trajectory: trajectory.key)


def count(codec: Any, played: Sequence[Trajectory]) -> dict[str, Any]:
    """Count tokens of prompts and of rows."""
    prompts: list[list[int]] = []
    row_tokens = rows = tree = 0
    for trajectory in played:
        lengths = []
        sampled = trajectory.as_sampled()
        for talk in sampled:
            replies = [i for i, message in enumerate(talk) if message.train]
            lengths += [len(codec.generation_prompt(talk[:place])) for place in replies]
        prompts.append(lengths)
        ids = sorted(codec.encode(talk).input_ids for talk in sampled)
        rows += len(ids)
        row_tokens += sum(map(len, ids))
        tree += sum(map(len, ids)) - sum(itertools.starmap(_common, itertools.pairwise(ids)))
    turns = list(itertools.chain.from_iterable(prompts))
    return {
        "episodes": len(played),
        "replies": len(turns),
        "tokens": round(float(np.mean(turns)), 1),
        "last": round(float(np.mean([lengths[-1] for lengths in prompts])), 1),
        "rows": rows,
        "row_tokens": row_tokens,
        "in_trees": tree,
    }


def _common(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


if __name__ == "__main__":
    main()
