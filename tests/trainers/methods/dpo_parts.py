"""What the tests of preference training have in common: trainers, and losses in doubles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import DPOSettings
from eto_gym.trainers.data.encoding import (
    TokenPair,
    encode_pairs,
)
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


Play = Callable[..., Trajectory]


QUICK = DPOSettings(
    learning_rate=1e-3, epochs=1, batch_size=4, micro_batch_size=2, max_length=512, warmup_ratio=0
)


def codec_of(tiny: Path) -> Any:
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    return default_codec(load_tokenizer(tiny))


def token_rows(tiny: Path, pairs: list[PreferencePair]) -> list[TokenPair]:
    return encode_pairs(codec_of(tiny), pairs, max_length=512)[0]


def new_trainer(tiny: Path, rows: list[TokenPair], settings: DPOSettings, folder: Path) -> Any:
    from eto_gym.trainers.methods.dpo import TrajectoryDPOTrainer
    from eto_gym.trainers.model.models import load_for_training, load_tokenizer
    from eto_gym.trainers.run.callbacks import set_callbacks

    folder.mkdir(parents=True, exist_ok=True)
    trainer = TrajectoryDPOTrainer(
        settings,
        model=load_for_training(tiny, settings),
        rows=rows,
        tokenizer=load_tokenizer(tiny),
        workspace=folder,
    )
    set_callbacks(trainer)
    return trainer


def double_logps(
    model: Any, ids: list[int], mask: list[bool], discount: float | None = None
) -> Any:
    """Sum of log-softmax over the trained tokens: plain torch, one row, no padding, float64.

    With a discount each turn has DMPO's weight.
    """
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    starts = [i for i in range(len(ids)) if mask[i] and (i == 0 or not mask[i - 1])]
    total = torch.zeros((), dtype=torch.float64)
    for position in range(1, len(ids)):
        if mask[position]:
            turn = sum(start <= position for start in starts) - 1
            weight = 1.0
            if discount is not None:
                left = 1 - discount ** (len(starts) - turn)
                weight = left / (1 - discount ** len(starts))
            total = total + weight * logits[position - 1].log_softmax(-1)[ids[position]]
    return total


def double_model(tiny: Path, scale: float = 0.0) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    perturb(model, scale)
    return model.eval()


def loss_away_from_the_reference(trainer: Any) -> Any:
    """Return the loss of all rows as one batch, with its gradients, of a policy that has moved."""
    perturb(trainer.model, 0.01)
    if trainer._origin is not None:
        trainer._origin.value = 0.25
    batch = trainer._collate(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(4))
    loss.backward()
    return loss


def perturb(model: Any, scale: float) -> None:
    """Move the policy away from its reference by a fixed amount."""
    generator = torch.Generator().manual_seed(5)
    for _, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += (scale * noise).to(parameter.dtype)
