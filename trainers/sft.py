"""Supervised fine-tuning on the agent's turns of whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eto_gym.trainers.encoding import Codec, encode_trajectories
from eto_gym.trainers.models import check_output, quiet_libraries
from eto_gym.trainers.options import TrainSettings, option
from eto_gym.trainers.training import TrainReport, Watch, train
from eto_gym.trajectories import Trajectory


@dataclass(frozen=True, kw_only=True)
class SFTSettings(TrainSettings):
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
    *,
    model: str | Path,
    output: str | Path,
    codec: Codec | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> TrainReport:
    """Fine-tune `model` on `trajectories` and write the result to `output`.

    Args:
        settings: How to train.
        trajectories: What to learn from.
        model: Folder or hub name of a causal language model, or folder of an adapter.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        codec: Tokenises conversations; by default the model's own chat template does.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated.
        watch: Progress, scores during training, early stopping; by default a progress bar only.

    Raises:
        DataError: The data, or the folders, cannot be used; the message says why.
    """
    output = Path(output)
    check_output(output)
    with quiet_libraries():
        from eto_gym.trainers import models
        from eto_gym.trainers.batching import Rows, collate_rows
        from eto_gym.trainers.sft_trainer import TurnSFTTrainer

        tokenizer = models.load_tokenizer(model)
        rows, data = encode_trajectories(
            codec or models.default_codec(tokenizer),
            trajectories,
            max_length=settings.max_length,
            truncation=settings.truncation,
            train_on=settings.train_on,
        )

        def build(loaded: Any, workspace: Path) -> TurnSFTTrainer:
            return TurnSFTTrainer(
                settings,
                model=loaded,
                rows=Rows(rows),
                collate=partial(collate_rows, pad_id=tokenizer.pad_token_id),
                tokenizer=tokenizer,
                workspace=workspace,
            )

        return train(
            "sft",
            settings,
            rows,
            data,
            build=build,
            model=model,
            tokenizer=tokenizer,
            output=output,
            resume=resume,
            watch=watch or Watch(),
        )
