"""What the tests of FSDP and of DeepSpeed train, in one process and in two, and compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from tests.trainers.conftest import play
from tests.trainers.processes import compare

QUICK: dict[str, Any] = {
    "learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "micro_batch_size": 1,
    "max_length": 512, "warmup_ratio": 0,
}  # fmt: skip
ROWS = 5
"""A whole batch, in two passes; and one of a single row, where the second process has nothing."""

SFT_RUNS: dict[str, dict[str, Any]] = {
    "sft": {"share_prefix": "off"},
    "shared": {"share_prefix": "on", "micro_batch_size": 2},
}

RUNS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "lora": {"lora_r": 2, "precompute_reference": False},
    "bf16": {"precision": "bf16"},
}
"""Runs of DPO."""

MORE_RUNS: dict[str, dict[str, Any]] = {
    "beside": {"precompute_reference": False},
    "merged": {"lora_r": 2, "merge_adapter": True},
}


def train_all(model: str, output: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Train on demonstrations, and on pairs in every way that `runs` name."""
    watch = Watch(progress=False)
    experts = [play(n, rounds=1 + n % 3) for n in range(ROWS)]
    for name, changes in SFT_RUNS.items():
        demonstrated = SFTSettings(**{**QUICK, **changes})
        run_sft(demonstrated, experts, model=model, output=output / name, watch=watch)
    pairs, _ = make_pairs([play(n, good=False) for n in range(ROWS)], experts)
    for name, changes in runs.items():
        settings = DPOSettings(**QUICK, **changes, reference_cache="none")
        run_dpo(settings, pairs, model=model, output=output / name, watch=watch)


def compare_all(one: Path, two: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Check that two processes learnt what one did."""
    for name in (*SFT_RUNS, *runs):
        loose: dict[str, Any] = {}
        if name == "bf16":  # other sums are rounded; where a gradient is nearly 0, that decides
            loose = {"rel": 0.02, "near": 5e-4, "apart": 0.05}
        first, second = compare(one / name, two / name, entries=2, **loose)
        assert (first["data"], first["notes"]) == (second["data"], second["notes"])
        if (
            name not in SFT_RUNS
        ):  # the policy is still the reference, to the last digit of their scores
            assert second["metrics"][0]["rewards/margins"] == pytest.approx(0, abs=1e-5), name


def refuse(
    model: str, output: Path, reason: str, watch: Watch | None = None, **changes: Any
) -> None:
    """Check that SFT with these settings is refused before it begins."""
    rows = [play(n) for n in range(4)]
    settings = SFTSettings(**QUICK, **changes)
    with pytest.raises(SettingsError, match=reason):
        run_sft(settings, rows, model=model, output=output / "refused", watch=watch)


def take_cpus_for_devices() -> None:
    """Have accelerate spread weights over processes on a CPU; by itself it ignores that there."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type != DistributedType.MULTI_CPU:
            return
        if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            from deepspeed import comm, ops

            # It would compile sums in shared memory of its own; gloo's are there already.
            ops.__compatible_ops__["deepspeed_shm_comm"] = False
            comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
            self.distributed_type = DistributedType.DEEPSPEED
        else:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init
