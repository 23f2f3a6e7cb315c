"""Weights spread over two processes learn what the weights of one process do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from tests.trainers.processes import launch
from tests.trainers.run.spread_runs import (
    RUNS,
    compare_all,
    refuse,
    take_cpus_for_devices,
    train_all,
)

pytest.importorskip("torch")
pytest.importorskip("accelerate")


def train_spread(model: str, player: str, output: str) -> None:
    """Do what two processes do: train, refuse, and count the modules that were spread."""
    take_cpus_for_devices()
    from torch.distributed import fsdp

    shard, modules = fsdp.fully_shard, []

    def count(module: Any, **options: Any) -> Any:
        modules.append(module)
        return shard(module, **options)

    fsdp.fully_shard = count
    out = Path(output)
    train_all(model, out, RUNS)
    refuse_all(model, player, out)
    (out / "modules").write_text(str(len(modules)))


def refuse_all(model: str, player: str, out: Path) -> None:
    """Ask for what needs the whole weights."""
    from tests.trainers.run.test_distributed import run_locks, run_rounds

    refuse(model, out, r"muon needs whole .* use adamw", optimizer="muon")
    refuse(model, out, r"adamw8bit of bitsandbytes .* use adamw", optimizer="adamw8bit")
    refuse(model, out, r"copy weights .* gradient_checkpointing", activation_offload=True)
    scored = Watch(progress=False, on_evaluate=lambda step, _: 0.0)
    refuse(model, out, "scores during training need the whole model", scored)
    with pytest.raises(SettingsError, match="grpo plays with the whole model"):
        run_locks("grpo", player, out / "grpo")
    with pytest.raises(SettingsError, match="ppo plays with the whole model"):
        run_rounds(player, out / "ppo")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_spread_weights_learn_the_same(tiny: Path, locksmith: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = (str(tiny), str(locksmith), str(two))
    launch(train_spread, *words, folder=tmp_path, config="fsdp", use_cpu=True)
    assert int((two / "modules").read_text()) > len(RUNS) + 1  # not plain data parallelism
    train_all(str(tiny), one, RUNS)
    compare_all(one, two, RUNS)
