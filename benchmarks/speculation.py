"""Measure whether guessing the next tokens of a reply from the text before it would pay.

This is n-gram speculation, also called prompt lookup.
Two things decide. How many tokens a pass then yields: counted by going through greedy replies that
were recorded, guessing at each position what followed the last `--ngram` tokens (or fewer) where
they stood last before, and accepting what the model did say. And what a pass costs that reads the
guesses of every row beside its own token: timed on the model, in CPU seconds, at the batch and the
length named. The player has no such speculation; this says what it would gain.

    python -m eto_gym.benchmarks.speculation EPISODES.jsonl --model smollm2 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.loading import load_model, load_tokenizer
from eto_gym.agents.models.model_names import resolve_model
from eto_gym.trajectories import Trajectory, TrajectoryStore


class Replies(NamedTuple):
    """What guessing did to the replies of some episodes.

    Attributes:
        tokens: Tokens of all replies, their ends included.
        passes: Forward passes that they would have taken.
    """

    tokens: int
    passes: int


def main(argv: Sequence[str] | None = None) -> None:
    """Print one JSON line per number of guesses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("episodes", help="file of greedy episodes that MODEL played")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--guesses", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--ngram", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=600, help="tokens held of each row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, default=100, help="episodes")
    args = parser.parse_args(argv)

    name = resolve_model(args.model)
    codec = ChatCodec(load_tokenizer(name))
    with TrajectoryStore(args.episodes) as store:
        rows = list(encoded(store.load()[: args.limit], codec))
    model = load_model(name, dtype=args.dtype)
    for guesses in args.guesses:
        counted = count(rows, guesses=guesses, ngram=args.ngram)
        told: dict[str, Any] = {
            "guesses": guesses,
            "tokens": counted.tokens,
            "tokens_per_pass": round(counted.tokens / counted.passes, 3),
        }
        for batch in args.batches:
            cost = cost_ratio(
                model, batch=batch, width=guesses + 1, context=args.context, repeats=args.repeats
            )
            told[f"cost_{batch}"] = round(cost, 2)
            told[f"gain_{batch}"] = round(told["tokens_per_pass"] / cost, 2)
        print(json.dumps(told), flush=True)


def encoded(
    episodes: Iterable[Trajectory], codec: ChatCodec
) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield the token ids of each episode, and which of them the model said."""
    for episode in episodes:
        yield tuple(codec.encode(episode.messages))


def count(
    rows: Iterable[tuple[Sequence[int], Sequence[bool]]], *, guesses: int, ngram: int
) -> Replies:
    """Go through what was said, guessing as many tokens at a time; each pass adds one of its own.

    Args:
        rows: Ids and marks of whole episodes, as `ChatCodec.encode` gives them.
        guesses: Tokens that are guessed in a pass at most.
        ngram: Tokens that must have stood before; where they did not, one fewer, down to one.
    """
    tokens = passes = 0
    for ids, marks in rows:
        last: list[dict[tuple[int, ...], int]] = [{} for _ in range(ngram + 1)]
        known = 0  # positions whose n-grams are in `last`
        at = 0
        while at < len(ids):
            if not marks[at]:
                at += 1
                continue
            for end in range(known + 1, at):  # a guess needs a token after its n-gram
                for n in range(1, min(ngram, end) + 1):
                    last[n][tuple(ids[end - n : end])] = end
            known = max(known, at - 1)
            start = next(
                (
                    last[n][key]
                    for n in range(min(ngram, at), 0, -1)
                    if (key := tuple(ids[at - n : at])) in last[n]
                ),
                None,
            )
            right = 0
            if start is not None:
                guessed = ids[start : min(start + guesses, at)]
                for guess, said, marked in zip(guessed, ids[at:], marks[at:], strict=False):
                    if guess != said or not marked:
                        break
                    right += 1
            # The token that the pass itself yields, unless the reply ended with a guess.
            step = right + (at + right < len(ids) and marks[at + right])
            tokens += step
            passes += 1
            at += step
    return Replies(tokens, passes)


@torch.inference_mode()
def cost_ratio(model: Any, *, batch: int, width: int, context: int, repeats: int) -> float:
    """Return the CPU time of a pass over `width` tokens a row, in passes over one token a row.

    Each row holds the keys and values of `context` tokens. Both passes are timed in turn.
    """
    from transformers import DynamicCache

    vocabulary = model.get_input_embeddings().weight.shape[0]
    spent = {1: 0.0, width: 0.0}
    held = DynamicCache()
    # [1, context]: one reading, repeated for all rows
    model(torch.randint(vocabulary, (1, context)), past_key_values=held, use_cache=True)
    held.batch_repeat_interleave(batch)
    for _ in range(repeats + 1):
        for tokens in spent:
            began = time.process_time()
            new = torch.randint(vocabulary, (batch, tokens))
            model(new, past_key_values=held, use_cache=True)
            held.crop(-tokens)
            spent[tokens] += time.process_time() - began
        if not _:
            spent = dict.fromkeys(spent, 0.0)  # the first pass warms up
    return spent[width] / spent[1]


if __name__ == "__main__":
    main()
