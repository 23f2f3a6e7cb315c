"""What a run measures, in which order, and how many seconds each part of it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from eto_gym.benchmarks import random_models

Kind = Literal["rate", "dpo", "sft", "rollouts", "generate", "tests"]
VARIANTS = ("trl", "padded", "ours")
"""TRL as released, with its fused head; ours with sharing off, and on."""

SHARING = {"padded": "padded", "ours": "tree"}
"""What `eto_gym.benchmarks.sft` calls ours with sharing off, and on."""

COMPILED = "compiled"
"""Rollouts whose decoding step is compiled into CUDA graphs."""

STEPS = 3
"""Optimizer steps of a training; the first warms up."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement; of `method` to `variant`, those that its kind has."""

    kind: Kind
    model: str = ""
    method: str = ""
    tokens: int = 0
    """Of a side of a pair, or of a row; half of it is what the sides, or the rows, share."""
    variant: str = ""
    conversations: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """Jobs with seconds of their own: what is not begun by then is left out, by name."""

    name: str
    seconds: float
    jobs: tuple[Job, ...]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """How large the measurements are."""

    small: str
    large: str | None
    tokens: tuple[int, ...]
    conversations: tuple[int, ...]
    turns: int
    instruction: int
    observation: int
    reply: int
    pairs: int
    rows: int
    matrix: int


SHAPES = {
    "full": Shapes("1.5B", "7B", (4096, 8192), (64, 256), 12, 600, 60, 24, 1, 2, 8192),
    # For a machine without a GPU: every part runs, and no figure means anything.
    "tiny": Shapes("tiny", None, (64,), (2, 3), 2, 20, 8, 4, 1, 2, 64),
}


def parts(shapes: Shapes, names: Sequence[str] = ()) -> list[Part]:
    """Return the parts of a run in their order; with `names`, only those, and "rate".

    What the project's targets are about comes first in every part. Seconds are for a run of 480.
    """
    large = shapes.large
    found = [
        Part("rate", 25, (Job("rate"),)),
        Part(f"dpo-{shapes.small}", 90, tuple(_training("dpo", shapes.small, shapes.tokens))),
        Part(f"dpo-{large}", 110, tuple(_training("dpo", large, shapes.tokens))),
        Part(f"sft-{shapes.small}", 50, tuple(_training("sft", shapes.small, shapes.tokens))),
        Part(f"sft-{large}", 70, tuple(_training("sft", large, shapes.tokens))),
        Part("rollouts", 70, tuple(_rollouts(shapes))),
        Part("tests", 65, (Job("tests"),)),
    ]
    found = [part for part in found if part.jobs]
    return [part for part in found if not names or part.name in ("rate", *names)]


def _training(
    kind: Literal["dpo", "sft"], model: str | None, lengths: Sequence[int]
) -> Iterator[Job]:
    """Yield every method at every length; QLoRA, which the smallest cards can do, first."""
    if model is None:
        return
    for tokens in lengths:
        for method in ("qlora", "lora", "full"):
            for variant in VARIANTS:
                yield Job(kind, model, method, tokens, variant)


def _rollouts(shapes: Shapes) -> Iterator[Job]:
    """Yield one by one as `generate` does it, then many side by side; last with a compiled step."""
    yield Job("generate", shapes.small, conversations=1)
    for count in shapes.conversations:
        yield Job("rollouts", shapes.small, conversations=count)
    yield Job("rollouts", shapes.small, variant=COMPILED, conversations=shapes.conversations[0])


def refusal(job: Job, card_bytes: float | None) -> str | None:
    """Return why a training cannot fit on a card, told by its weights alone; None if it may.

    Whole training holds weights, gradients and two moments in float32, and TRL's a reference beside
    them for DPO. What activations take is for the card to say.
    """
    if card_bytes is None or job.kind not in ("dpo", "sft"):
        return None
    per_weight = {"full": 16.0, "lora": 2.0, "qlora": 0.6}[job.method]
    if (job.kind, job.method, job.variant) == ("dpo", "full", "trl"):
        per_weight += 4
    needed = per_weight * random_models.parameters(job.model)
    if needed < card_bytes:
        return None
    return (
        f"does not fit: weights, gradients and optimizer take {needed / 2**30:.0f} GiB, and the "
        f"card has {card_bytes / 2**30:.0f}"
    )
