"""Measure the local policy: tokens per second with the kept cache, and with reading all anew.

Plays synthetic conversations (a common instruction, observations and replies of random words) on
the tiny model with random weights, so that every reply has `--reply` tokens. Run it with one
thread, on an otherwise idle machine:

    OMP_NUM_THREADS=1 python -m eto_gym.benchmarks.policy
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.tiny import build_model, train_tokenizer
from eto_gym.agents.policy import Conversation
from eto_gym.prompt import Message

SENTENCE = "you go to the drawer and open it on the plate you see a cup nothing happens take put"
WORDS = SENTENCE.split()


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and with `--json` one JSON line per row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 128, 256])
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--instruction", type=int, default=300, help="tokens that all share")
    parser.add_argument("--observation", type=int, default=24, help="tokens, on average")
    parser.add_argument("--reply", type=int, default=24, help="tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the decoding step")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)

    tokenizer = train_tokenizer([" " + " ".join(WORDS)] * 9, vocab_size=768)
    model = build_model(tokenizer).to(args.device)
    speak_words(model, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.2f} M parameters, {torch.get_num_threads()} threads, {args.device}, "
        f"{args.turns} turns, instruction {args.instruction}, observation {args.observation}, "
        f"reply {args.reply} tokens"
    )
    print(
        f"{'batch':>6} {'cache':>6} {'prefilled':>10} {'decoded':>8} {'CPU s':>7} {'wall s':>7} "
        f"{'decoded/CPU s':>14} {'all/CPU s':>10}"
    )
    for batch in args.batches:
        for keep in (True, False):
            row = measure(
                model,
                ChatCodec(tokenizer),
                batch=batch,
                keep=keep,
                turns=args.turns,
                instruction=args.instruction,
                observation=args.observation,
                reply=args.reply,
                compile=args.compile,
            )
            if args.json:
                print(json.dumps(row))
                continue
            new = row["prefilled"] + row["decoded"]
            print(
                f"{batch:>6} {'kept' if keep else 'none':>6} {row['prefilled']:>10.0f} "
                f"{row['decoded']:>8.0f} {row['cpu_s']:>7.2f} {row['wall_s']:>7.2f} "
                f"{row['decoded'] / row['cpu_s']:>14.0f} {new / row['cpu_s']:>10.0f}"
            )


def speak_words(model: Any, tokenizer: Any) -> None:
    """Let the model say only whole words, as a trained one does.

    Random tokens would be spelled otherwise when the reply is encoded again, so that the cache
    would be blamed for what only a model without training does.
    """
    said = tokenizer.encode(" " + " ".join(WORDS))
    rows, width = model.lm_head.weight.shape
    head = torch.nn.Linear(width, rows, device=model.device, dtype=model.dtype)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.fill_(-1e4)
        head.bias[said] = 0.0
    model.lm_head = head


def measure(
    model: Any,
    codec: ChatCodec,
    *,
    batch: int,
    keep: bool,
    turns: int,
    instruction: int,
    observation: int,
    reply: int,
    compile: bool = False,
) -> dict[str, float]:
    """Play conversations side by side; return tokens and seconds.

    Args:
        model: A model that `speak_words` prepared.
        codec: Its codec.
        batch: Conversations.
        keep: Whether keys and values are kept from turn to turn.
        turns: Replies of each conversation.
        instruction: Tokens that all begin with.
        observation: Tokens of an observation, on average.
        reply: Tokens of a reply.
        compile: Whether the decoding step is compiled; that is not timed.
    """
    policy = LocalPolicy(
        model,
        codec,
        temperature=1.0,
        max_new_tokens=reply,
        keep_cache=keep,
        batch_size=batch,
        compile=compile,
    )
    rng = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS, count))

    head = words(instruction)
    talks = [[Message("user", f"{head} {words(observation)}")] for _ in range(batch)]
    prefilled = decoded = 0
    warm_up = [Conversation(f"warm-up-{i}", talk[:1]) for i, talk in enumerate(talks)]
    warm_up = warm_up if compile else warm_up[:1]
    policy.act(warm_up)
    for conversation in warm_up:
        policy.release(conversation.key)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(turns):
        replies = policy.act([Conversation(str(i), talk, seed=i) for i, talk in enumerate(talks)])
        for talk, said in zip(talks, replies, strict=True):
            assert said.error is None
            prefilled += said.usage["prefilled_tokens"]
            decoded += said.usage["decoded_tokens"]
            length = int(rng.integers(observation // 2, observation * 3 // 2 + 1))
            talk += [Message("assistant", said.text), Message("user", words(length))]
    return {
        "batch": batch,
        "cache": keep,
        "prefilled": prefilled,
        "decoded": decoded,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
    }


if __name__ == "__main__":
    main()
