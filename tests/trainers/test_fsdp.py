"""Weights spread over two processes learn what the weights of one process do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.options import SettingsError
from eto_gym.trainers.training import Watch
from eto_gym.trajectories import Trajectory

torch = pytest.importorskip("torch")
yaml = pytest.importorskip("yaml")
pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[2]
Play = Callable[..., Trajectory]
RUNS = ("sft", "dpo", "lora")
ROWS = 5
"""A whole batch, and one of a single row: there the second process has nothing to add."""


def run_all(play: Play, model: str, out: Path) -> None:
    """Train on demonstrations, on pairs whose reference is scored before, and while, training."""
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


def refuse_all(play: Play, model: str, player: str, out: Path) -> None:
    """Ask for what needs the whole weights."""
    from tests.trainers.test_distributed import run_locks, run_rounds

    muon = SFTSettings(optimizer="muon", batch_size=4, micro_batch_size=2)
    with pytest.raises(SettingsError, match=r"muon needs whole .* use adamw"):
        run_sft(muon, [play(n) for n in range(4)], model=model, output=out / "muon")
    scored = Watch(progress=False, on_evaluate=lambda step, _: 0.0)
    settings = SFTSettings(batch_size=4, micro_batch_size=2)
    with pytest.raises(SettingsError, match="scores during training need the whole model"):
        run_sft(settings, [play(n) for n in range(4)], model=model, output=out / "s", watch=scored)
    with pytest.raises(SettingsError, match="grpo plays with the whole model"):
        run_locks("grpo", player, out / "grpo")
    with pytest.raises(SettingsError, match="ppo plays with the whole model"):
        run_rounds(player, out / "ppo")


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


SCRIPT = """
from pathlib import Path
from tests.trainers import test_fsdp
from tests.trainers.conftest import play
test_fsdp.spread_over_cpus()
from torch.distributed import fsdp
shard, modules = fsdp.fully_shard, []
fsdp.fully_shard = lambda module, **options: modules.append(module) or shard(module, **options)
test_fsdp.run_all(play, {model!r}, Path({out!r}))
test_fsdp.refuse_all(play, {model!r}, {player!r}, Path({out!r}))
Path({out!r}, "modules").write_text(str(len(modules)))
"""


@pytest.mark.timeout(600)
def test_spread_weights_learn_the_same(
    make_play: Play, tiny: Path, locksmith: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp.yaml").read_text())
    file = tmp_path / "fsdp.yaml"
    file.write_text(yaml.safe_dump({**config, "num_processes": 2, "use_cpu": True}))
    script = tmp_path / "train.py"
    words = {"model": str(tiny), "player": str(locksmith), "out": str(tmp_path / "two")}
    script.write_text(SCRIPT.format(**words))
    launch = ["accelerate.commands.launch", "--config_file", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "--main_process_port", "0", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    assert int((tmp_path / "two" / "modules").read_text()) > len(RUNS)  # not plain data parallelism
    run_all(make_play, str(tiny), tmp_path / "one")
    for name in RUNS:
        one, two = (
            json.loads((tmp_path / count / name / "training.json").read_text())
            for count in ("one", "two")
        )
        assert len(one["metrics"]) == len(two["metrics"]) == 2
        for first, second in zip(one["metrics"], two["metrics"], strict=True):
            for key in set(first) & {"loss", "grad_norm", "learning_rate", "rewards/margins"}:
                assert second[key] == pytest.approx(first[key], rel=1e-3, abs=1e-5), (name, key)
        assert (one["data"], one["notes"]) == (two["data"], two["notes"])
        weights = [_weights(tmp_path / count / name) for count in ("one", "two")]
        assert set(weights[0]) == set(weights[1])  # tied weights once
        for key, value in weights[0].items():
            assert torch.allclose(value, weights[1][key], atol=1e-5), (name, key)
        assert not (tmp_path / "two" / f"{name}.work").exists()


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*model.safetensors")
    return dict(load_file(file))
