"""Supervised fine-tuning on the agent's turns of whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from eto_gym.trainers.data.encoding import encode_trajectories
from eto_gym.trainers.run.job import DataArguments, DataJob, prepared
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.settings.base import SharingSettings, option
from eto_gym.trajectories import Trajectory


@dataclass(frozen=True, kw_only=True)
class SFTSettings(SharingSettings):
    """Settings of supervised fine-tuning; the defaults are the paper's."""

    train_on: str = option(
        "assistant",
        "'assistant': the turns marked for training; 'all': every token, which teaches a model "
        "from scratch the language of the world",
        paper="assistant",
        choices=("assistant", "all"),
    )


def run_sft(
    settings: SFTSettings,
    trajectories: Sequence[Trajectory],
    **arguments: Unpack[DataArguments],
) -> TrainReport:
    """Fine-tune a model on `trajectories`.

    Args:
        settings: How to train.
        trajectories: What to learn from.
        arguments: `model` and `output`; `codec`, `resume`, `watch`: see `DataArguments`.

    Raises:
        DataError: The data, or the folders, cannot be used; the message says why.
    """
    job = DataJob(**arguments)
    with prepared(settings, job) as (tokenizer, codec):
        from eto_gym.trainers.methods.sft_trainer import TurnSFTTrainer

        rows, data = encode_trajectories(
            codec,
            trajectories,
            max_length=settings.max_length,
            truncation=settings.truncation,
            train_on=settings.train_on,
        )

        def build(loaded: Any, workspace: Path) -> TurnSFTTrainer:
            return TurnSFTTrainer(
                settings,
                model=loaded,
                rows=rows,
                tokenizer=tokenizer,
                workspace=workspace,
            )

        return train("sft", settings, rows, data, build=build, tokenizer=tokenizer, job=job)
