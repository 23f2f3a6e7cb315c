"""What two processes learn under DeepSpeed's ZeRO 2 and 3 is what one process learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.training import Watch
from tests.trainers.conftest import play
from tests.trainers.processes import compare, launch

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("deepspeed")

ROWS = 5
"""A whole batch, and one of a single row: there the second process has nothing to add."""

RUNS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "beside": {"precompute_reference": False},
    "lora": {"lora_r": 2},
    "lora-beside": {"lora_r": 2, "precompute_reference": False},
}


def run_all(model: str, output: str) -> None:
    """Train on demonstrations, on pairs whose reference is scored before, and while, training."""
    out = Path(output)
    quick: dict[str, Any] = {
        "learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "micro_batch_size": 1,
        "max_length": 512, "warmup_ratio": 0,
    }  # fmt: skip
    watch = Watch(progress=False)
    experts = [play(n, rounds=1 + n % 3) for n in range(ROWS)]
    run_sft(SFTSettings(**quick), experts, model=model, output=out / "sft", watch=watch)
    pairs, _ = make_pairs([play(n, good=False) for n in range(ROWS)], experts)
    for name, changes in RUNS.items():
        settings = DPOSettings(**quick, **changes, reference_cache="none")
        run_dpo(settings, pairs, model=model, output=out / name, watch=watch)


def take_cpus_for_devices() -> None:
    """Let accelerate hand processes on a CPU to DeepSpeed: else it ignores it there."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            from deepspeed import comm

            comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
            self.distributed_type = DistributedType.DEEPSPEED

    PartialState.__init__ = init


def train_spread(model: str, output: str) -> None:
    """Do what two processes do."""
    take_cpus_for_devices()
    run_all(model, output)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_spread_weights_learn_the_same(stage: str, tiny: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    launch(
        train_spread, str(tiny), str(two), folder=tmp_path, config=stage, mixed_precision="no",
        environment={"DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    run_all(str(tiny), str(one))
    for name in ("sft", *RUNS):
        first, second = compare(one / name, two / name, entries=2)
        assert (first["data"], first["notes"]) == (second["data"], second["notes"])
