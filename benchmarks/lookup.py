"""Measure what guessing tokens gains the local player (`lookup`, n-gram speculation).

Takes conversations that were recorded, lets the model say each of their replies again, turn by turn
and `--rows` conversations at a time, and goes on with the recorded reply, so that every number of
guesses answers the same prompts. One JSON line each: forward passes, CPU seconds, and how many
replies are those that are said without guesses (in 16 bits rounding may tell them apart).

    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.lookup EPISODES.jsonl --model smollm2 \
        --dtype bfloat16 --rows 4 16
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.loading import load_model, load_tokenizer
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.model_names import resolve_model
from eto_gym.benchmarks.players import say_again
from eto_gym.trajectories import TrajectoryStore


def _guesses(word: str) -> int | None:
    return None if word == "auto" else int(word)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each number of rows and of guesses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("episodes", help="file of episodes, best those that MODEL played")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--lookup", type=_guesses, nargs="+", default=[0, None, 2, 4, 8],
        help="tokens at most; auto: what the player takes by itself",
    )  # fmt: skip
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    args = parser.parse_args(argv)

    with TrajectoryStore(args.episodes) as store:
        episodes = store.load()
    name = resolve_model(args.model)
    codec = ChatCodec(load_tokenizer(name))
    model = load_model(name, dtype=args.dtype, device=args.device)
    passes: list[None] = []
    model.register_forward_hook(lambda *_: passes.append(None))
    for rows in args.rows:
        expected: list[str] = []
        for lookup in args.lookup:
            policy = LocalPolicy(model, codec, max_new_tokens=args.max_new_tokens, lookup=lookup)
            passes.clear()
            told, replies = say_again(policy, episodes[:rows], turns=args.turns)
            told["passes"] = len(passes)
            expected = expected or replies
            told["same"] = sum(a == b for a, b in zip(expected, replies, strict=True))
            print(json.dumps({"rows": rows, "lookup": lookup, **told}), flush=True)


if __name__ == "__main__":
    main()
