from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.model.models import load_for_training, with_adapters
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trajectories import Trajectory

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

Play = Callable[..., Trajectory]

BASE: dict[str, Any] = {
    "learning_rate": 1e-2,
    "epochs": 4,
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 512,
    "lora_r": 4,
    "warmup_ratio": 0,
}


def _train(method: str, make_play: Play, model: Path, output: Path, **options: Any) -> Any:
    experts = [make_play(n, rounds=1 + n % 3) for n in range(8)]
    if method == "sft":
        return run_sft(
            SFTSettings(**{**BASE, **options}),
            experts,
            model=model,
            output=output,
            watch=Watch(progress=False),
        )
    pairs, _ = make_pairs([make_play(n, good=False) for n in range(8)], experts)
    return run_dpo(
        DPOSettings(**{**BASE, **options}),
        pairs,
        model=model,
        output=output,
        watch=Watch(progress=False),
    )


def _logits(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    # Of an adapter's folder, transformers loads the base and puts the adapter on it.
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 45)[None]).logits


def test_adapters_are_put_on_and_loaded_without_a_word_of_the_libraries(
    tiny: Path, tmp_path: Path
) -> None:
    settings = SFTSettings(lora_r=4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with_adapters(load_for_training(tiny, settings), settings).save_pretrained(str(tmp_path))
        load_for_training(tmp_path, settings)
    assert [str(w.message) for w in said if issubclass(w.category, FutureWarning)] == []


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_adapter_is_trained_written_loaded_and_merged(
    make_play: Play, tiny: Path, tmp_path: Path, method: str
) -> None:
    report = _train(method, make_play, tiny, tmp_path / "adapter")
    assert report.metrics[-1]["loss"] < report.metrics[0]["loss"] - 0.2
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert not torch.allclose(_logits(tmp_path / "adapter"), _logits(tiny), atol=1e-3)

    merged = _train(method, make_play, tiny, tmp_path / "merged", merge_adapter=True)
    assert f"trained by {method}" in (tmp_path / "merged" / "README.md").read_text()
    assert [e["loss"] for e in merged.metrics] == [e["loss"] for e in report.metrics]
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert torch.allclose(_logits(tmp_path / "merged"), _logits(tmp_path / "adapter"), atol=1e-4)


def test_dpo_goes_on_with_the_adapter_and_has_it_as_the_reference(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    _train("sft", make_play, tiny, tmp_path / "sft")
    for once in (True, False):
        report = _train(
            "dpo", make_play, tmp_path / "sft", tmp_path / f"dpo-{once}", precompute_reference=once
        )
        # The loss starts at log 2: the reference is the adapter, not the bare base.
        assert report.metrics[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
        assert report.metrics[-1]["loss"] < 0.6
        names = {p.name for p in (tmp_path / f"dpo-{once}").iterdir()}
        assert "adapter_model.safetensors" in names
        assert "ref" not in names
    with pytest.raises(SettingsError, match="rank 4"):
        _train("dpo", make_play, tmp_path / "sft", tmp_path / "other", lora_r=8)


def test_a_run_folder_with_adapters_may_be_moved(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    """Adapters name their base by its whole path: it is found beside them, as it was."""
    from eto_gym.agents.models.adapters import base_of
    from eto_gym.agents.models.loading import load_model
    from eto_gym.trainers.model.models import merge_adapter

    def logits(folder: Path) -> Any:
        with torch.no_grad():
            model: Any = load_model(str(folder), device="cpu", dtype="float32")
            return model(input_ids=torch.arange(5, 45)[None]).logits

    stages = tmp_path / "run" / "stages"
    shutil.copytree(tiny, stages / "base-0a" / "model")
    _train("sft", make_play, stages / "base-0a" / "model", stages / "sft-0b" / "model", max_steps=2)
    before = logits(stages / "sft-0b" / "model")
    (tmp_path / "run").rename(tmp_path / "moved")
    stages = tmp_path / "moved" / "stages"
    adapter, base = stages / "sft-0b" / "model", stages / "base-0a" / "model"

    assert base_of(adapter) == str(base)
    assert torch.equal(logits(adapter), before)
    merge_adapter(adapter, tmp_path / "merged")
    assert torch.allclose(logits(tmp_path / "merged"), before, atol=1e-4)
    _train("sft", make_play, adapter, tmp_path / "later", max_steps=1)
    config = json.loads((tmp_path / "later" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)

    shutil.move(base, tmp_path / "gone")
    with pytest.raises(DataError, match="not there any more: put it back"):
        base_of(adapter)
    shutil.move(adapter, tmp_path / "alone")  # beside nothing, and so not looked for
    with pytest.raises(DataError, match="not there any more: put it back"):
        base_of(tmp_path / "alone")


def test_whole_training_starts_from_a_merged_adapter(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    _train("sft", make_play, tiny, tmp_path / "sft")
    report = _train(
        "dpo", make_play, tmp_path / "sft", tmp_path / "dpo", lora_r=0, precompute_reference=False
    )
    # The second model in memory, the reference, has the adapter merged in too.
    assert report.metrics[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert (tmp_path / "dpo" / "model.safetensors").is_file()


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_four_bit_base_trains(make_play: Play, tiny: Path, tmp_path: Path, method: str) -> None:
    pytest.importorskip("bitsandbytes")
    report = _train(method, make_play, tiny, tmp_path / "out", qlora=True, merge_adapter=True)
    assert report.metrics[-1]["loss"] < report.metrics[0]["loss"] - 0.2
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not torch.allclose(_logits(tmp_path / "out"), _logits(tiny), atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", ["adamw8bit", "paged_adamw8bit"])
def test_eight_bit_optimizers(make_play: Play, tiny: Path, tmp_path: Path, optimizer: str) -> None:
    pytest.importorskip("bitsandbytes")
    report = _train("sft", make_play, tiny, tmp_path / "out", optimizer=optimizer, lora_r=0)
    assert report.metrics[-1]["loss"] < report.metrics[0]["loss"] - 0.2


def test_four_bit_layers_stay_in_training_mode_however_deep_the_scoring() -> None:
    from eto_gym.trainers.model.scoring import without_dropout

    layer: Any = type("Linear4bit", (torch.nn.Linear,), {})(2, 2)  # known by its name
    model = torch.nn.Sequential(layer, torch.nn.Dropout())
    with without_dropout(model):
        with without_dropout(model):
            model.eval()
            assert [part.training for part in model] == [True, False]
        model.eval()  # as a policy does that plays with it
        assert [part.training for part in model] == [True, False]
    assert [part.training for part in model] == [True, True]
    model.eval()
    assert [part.training for part in model] == [False, False]


def test_gradient_checkpointing_changes_no_loss(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    plain = _train("dpo", make_play, tiny, tmp_path / "plain")
    saving = _train("dpo", make_play, tiny, tmp_path / "saving", gradient_checkpointing=True)
    assert [e["loss"] for e in saving.metrics] == pytest.approx(
        [e["loss"] for e in plain.metrics], rel=1e-5
    )
    assert replace(plain.data) == saving.data
