"""What two processes learn under DeepSpeed's ZeRO 2 and 3 is what one process learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import SFTSettings, run_sft
from eto_gym.trainers.run.training import Watch
from tests.trainers.conftest import play
from tests.trainers.processes import compare, launch
from tests.trainers.run.spread_runs import (
    MORE_RUNS,
    QUICK,
    RUNS,
    compare_all,
    refuse,
    take_cpus_for_devices,
    train_all,
)

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("deepspeed")

pytestmark = pytest.mark.deepspeed

ALL = {**RUNS, **MORE_RUNS}


class _Killed(Exception):
    pass


def train_spread(model: str, output: str) -> None:
    """Do what two processes do: train, go on from a checkpoint, refuse, and note the stages."""
    take_cpus_for_devices()
    import deepspeed

    begin, stages = deepspeed.initialize, []

    def note(*args: Any, **kwargs: Any) -> Any:
        made = begin(*args, **kwargs)
        stages.append(made[0].zero_optimization_stage())
        return made

    deepspeed.initialize = note
    out = Path(output)
    train_all(model, out, ALL)
    (out / "stages.json").write_text(json.dumps(stages))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eto_gym.trainers.run.callbacks.ProgressBar.on_step_end", _die)
        with pytest.raises(_Killed):
            run_long(model, out)
    assert (out / "long.work" / "checkpoint-2" / "complete").is_file()
    run_long(model, out)
    refuse(model, out, r"muon needs whole .* use adamw", optimizer="muon")


def run_long(model: str, out: Path) -> None:
    """Train for four steps, or the rest of them."""
    settings = SFTSettings(**{**QUICK, "epochs": 2}, save_every=1)
    rows = [play(n, rounds=1 + n % 3) for n in range(5)]
    watch = Watch(progress=False)
    run_sft(settings, rows, model=model, output=out / "long", resume=True, watch=watch)


def _die(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
    if state.global_step == 3:
        raise _Killed


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("config", "stage"), [("zero2", 2), ("zero3", 3)])
def test_spread_weights_learn_the_same(config: str, stage: int, tiny: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    cpu = {"DS_ACCELERATOR": "cpu"}
    launch(train_spread, str(tiny), str(two), folder=tmp_path, config=config, environment=cpu)
    assert json.loads((two / "stages.json").read_text()).count(stage) > len(ALL)
    train_all(str(tiny), one, ALL)
    compare_all(one, two, ALL)
    run_long(str(tiny), one)
    compare(one / "long", two / "long", entries=4)
