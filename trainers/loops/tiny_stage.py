"""The base stage of the tiny model: the world's language, learned from play without a purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eto_gym.errors import EtoGymError
from eto_gym.trainers.methods.sft import run_sft
from eto_gym.trainers.run.process_group import ProcessGroup
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.world import BaseSettings
from eto_gym.trajectories import Trajectory


def train_base(
    settings: BaseSettings,
    play: Sequence[Trajectory],
    *,
    output: str | Path,
    progress: bool = True,
    processes: ProcessGroup | None = None,
) -> dict[str, Any]:
    """Build the tiny model, train it on `play`, and write it to `output`.

    Args:
        settings: Its size and training.
        play: What it learns from.
        output: Folder of the trained model; the untrained one is put beside it.
        progress: Show a bar.
        processes: Processes that train together; the first builds the model.

    Returns:
        The training report, with the number of parameters.

    Raises:
        EtoGymError: There is no play.
    """
    output = Path(output)
    fresh = output.with_name(f"{output.name}-untrained")
    if not play:
        raise EtoGymError("the base stage needs play to learn from, and there is none")
    parameters = (processes or ProcessGroup()).first(lambda: _build(settings, play, fresh))
    report = run_sft(
        settings.train,
        play,
        model=fresh,
        output=output,
        resume=True,
        watch=Watch(progress=progress),
    )
    return {"parameters": parameters, **dataclasses.asdict(report)}


def _build(settings: BaseSettings, play: Sequence[Trajectory], folder: Path) -> int:
    """Write a new model with its tokenizer; return the number of its parameters."""
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    texts = [m.content for trajectory in play for m in trajectory.messages]
    texts += [block for trajectory in play for block in trajectory.states]
    tokenizer = train_tokenizer(texts, vocab_size=settings.vocab_size)
    model = build_model(
        tokenizer,
        hidden_size=settings.hidden_size,
        layers=settings.layers,
        heads=settings.heads,
        kv_heads=settings.kv_heads,
        mlp_size=settings.mlp_size,
        context=settings.context,
        seed=settings.seed,
    )
    save_tiny(model, tokenizer, folder)
    return int(model.num_parameters())
