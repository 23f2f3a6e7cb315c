"""From which checkpoints trainings go on, and an end right after one was written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.files import write_digests
from tests.trainers.processes import die


@contextlib.contextmanager
def noted_checkpoints() -> Iterator[list[Path | None]]:
    """Yield a list that receives, of each training that begins, its checkpoint; None: anew."""
    from eto_gym.trainers.run import base_trainer  # not before torch is known to be there

    checkpoints: list[Path | None] = []
    fit = base_trainer.fit

    def keep(trainer: Any, checkpoint: Path | None) -> None:
        checkpoints.append(checkpoint)
        fit(trainer, checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_trainer, "fit", keep)
        yield checkpoints


def die_after_checkpoint(model: str, step: int) -> None:
    """Let this process be killed once a checkpoint is complete.

    Args:
        model: Beginning of the name of the stage or model that is trained.
        step: The checkpoint's step.
    """

    def write_and_die(path: Path, **options: Any) -> None:
        write_digests(path, **options)
        folders = [folder.name for folder in path.parents]
        if folders[0] == f"checkpoint-{step}" and any(name.startswith(model) for name in folders):
            die()

    patch = pytest.MonkeyPatch()  # for good: the process ends by it
    patch.setattr("eto_gym.trainers.run.callbacks.write_digests", write_and_die)
