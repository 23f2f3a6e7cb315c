"""From which checkpoints trainings go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


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
