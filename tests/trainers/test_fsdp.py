"""Weights spread over two processes learn what the weights of one process do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.options import SettingsError
from eto_gym.trainers.training import Watch
from tests.trainers.conftest import play
from tests.trainers.processes import compare, launch

pytest.importorskip("torch")
pytest.importorskip("accelerate")

RUNS = ("sft", "dpo", "lora")
ROWS = 5
"""A whole batch, and one of a single row: there the second process has nothing to add."""


def run_all(model: str, output: str) -> None:
    """Train on demonstrations, on pairs whose reference is scored before, and while, training."""
    out = Path(output)
    quick: dict[str, Any] = {
        "learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "micro_batch_size": 2,
        "max_length": 512, "warmup_ratio": 0,
    }  # fmt: skip
    watch = Watch(progress=False)
    experts = [play(n, rounds=1 + n % 3) for n in range(ROWS)]
    run_sft(SFTSettings(**quick), experts, model=model, output=out / "sft", watch=watch)
    pairs, _ = make_pairs([play(n, good=False) for n in range(ROWS)], experts)
    methods: dict[str, dict[str, Any]] = {
        "dpo": {}, "lora": {"lora_r": 2, "precompute_reference": False}
    }  # fmt: skip
    for name, changes in methods.items():
        settings = DPOSettings(**quick, **changes, reference_cache="none")
        run_dpo(settings, pairs, model=model, output=out / name, watch=watch)


def refuse_all(model: str, player: str, out: Path) -> None:
    """Ask for what needs the whole weights."""
    from tests.trainers.test_distributed import run_locks

    muon = SFTSettings(optimizer="muon", batch_size=4, micro_batch_size=2)
    with pytest.raises(SettingsError, match=r"muon needs whole .* use adamw"):
        run_sft(muon, [play(n) for n in range(4)], model=model, output=out / "muon")
    scored = Watch(progress=False, on_evaluate=lambda step, _: 0.0)
    settings = SFTSettings(batch_size=4, micro_batch_size=2)
    with pytest.raises(SettingsError, match="scores during training need the whole model"):
        run_sft(settings, [play(n) for n in range(4)], model=model, output=out / "s", watch=scored)
    with pytest.raises(SettingsError, match="grpo plays with the whole model"):
        run_locks("grpo", player, out / "grpo")


def spread_over_cpus() -> None:
    """Let accelerate take processes on a CPU for devices: else it ignores FSDP there."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init


def train_spread(model: str, player: str, output: str) -> None:
    """Do what two processes do: train, refuse, and count the modules that were spread."""
    spread_over_cpus()
    from torch.distributed import fsdp

    shard, modules = fsdp.fully_shard, []

    def count(module: Any, **options: Any) -> Any:
        modules.append(module)
        return shard(module, **options)

    fsdp.fully_shard = count
    run_all(model, output)
    refuse_all(model, player, Path(output))
    Path(output, "modules").write_text(str(len(modules)))


@pytest.mark.timeout(600)
def test_spread_weights_learn_the_same(tiny: Path, locksmith: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = (str(tiny), str(locksmith), str(two))
    launch(train_spread, *words, folder=tmp_path, config="fsdp", use_cpu=True)
    assert int((two / "modules").read_text()) > len(RUNS)  # not plain data parallelism
    run_all(str(tiny), str(one))
    for name in RUNS:
        first, second = compare(one / name, two / name, entries=2)
        assert (first["data"], first["notes"]) == (second["data"], second["notes"])
