"""The loop with adapters: stages go on with one adapter, over one base that is never copied."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.loops.stage_data import PAIRS
from eto_gym.trajectories.formats import read_pair, read_records
from tests.trainers.loops.test_eto import small_settings, stage

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

ADAPTED = ("sft", "eto-1", "eto-2", "control")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("lora")
    plain = small_settings(max_steps=6, iterations=2, dev_tasks=2, dev_every=1)
    settings = dataclasses.replace(
        plain,
        sft=dataclasses.replace(plain.sft, lora_r=4, learning_rate=1e-2),
        dpo=dataclasses.replace(plain.dpo, lora_r=4, learning_rate=1e-3),
    )
    return folder, ETOLoop(settings, folder).run()


def test_stages_write_adapters_over_one_base(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    base = (stage(folder, "base") / "model").resolve()
    for name in ADAPTED:
        model = stage(folder, name) / "model"
        assert (model / "adapter_model.safetensors").is_file()
        assert not (model / "model.safetensors").exists()
        config = json.loads((model / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base)
    assert [row["policy"] for row in report["policies"]][-2:] == [
        "ETO, iteration 2",
        "control: SFT continued",
    ]


def test_preference_starts_from_the_adapter_before_it(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    for name in ("eto-1", "eto-2"):
        report = json.loads((stage(folder, name) / "model" / "training.json").read_text())
        assert report["metrics"][0]["loss"] == pytest.approx(0.693147, abs=1e-4)
        # The dev tasks were played before the first step and after each.
        assert [step for step, _ in report["scores"]] == list(range(report["steps"] + 1))
        assert all(0 <= score <= 1 for _, score in report["scores"])


def test_one_base_is_in_memory_while_preferring(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from eto_gym.trainers import DPOSettings, run_dpo
    from eto_gym.trainers.methods.dpo import TrajectoryDPOTrainer
    from eto_gym.trainers.run.training import Watch

    folder, _ = finished
    loaded: list[str] = []
    original = AutoModelForCausalLM.from_pretrained

    def load(name: str, *args: Any, **options: Any) -> Any:
        loaded.append(name)
        return original(name, *args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    trainers: list[Any] = []
    build = TrajectoryDPOTrainer.__init__

    def keep(self: Any, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        trainers.append(self)

    monkeypatch.setattr(TrajectoryDPOTrainer, "__init__", keep)
    pairs = [read_pair(r) for r in read_records(stage(folder, "pairs-2") / PAIRS)]
    run_dpo(
        DPOSettings(lora_r=4, max_steps=1, batch_size=2, micro_batch_size=2, max_length=2048),
        pairs[:2],
        model=stage(folder, "eto-1") / "model",
        output=tmp_path / "out",
        watch=Watch(progress=False),
    )
    assert len(loaded) == 1
    (trainer,) = trainers
    assert trainer.ref_model is None
    assert list(trainer.model.peft_config) == ["default"]


def test_an_adapter_is_played_and_merged(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from eto_gym.agents.models.local import LocalPolicy
    from eto_gym.agents.policy import Conversation
    from eto_gym.cli.main import main
    from eto_gym.prompt import Message

    folder, _ = finished
    adapter = stage(folder, "eto-2") / "model"
    base = stage(folder, "base") / "model"
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    ids = torch.arange(5, 45)[None]
    options: dict[str, Any] = {"max_new_tokens": 12, "dtype": "float32"}
    policies = {
        "adapter": LocalPolicy.from_pretrained(str(adapter), **options),
        "on its base": LocalPolicy.from_pretrained(str(base), adapter=str(adapter), **options),
        "merged": LocalPolicy.from_pretrained(str(tmp_path / "merged"), **options),
        "base": LocalPolicy.from_pretrained(str(base), **options),
    }
    talk = (Message("user", "You are in the middle of a room."),)
    said = {
        name: policy.act([Conversation(key="x", messages=talk, seed=0)])[0].text
        for name, policy in policies.items()
    }
    assert said["adapter"] == said["on its base"] == said["merged"]
    with torch.no_grad():
        logits = {
            name: policy._decoder._model(input_ids=ids).logits for name, policy in policies.items()
        }
    for name in ("on its base", "merged"):
        assert torch.allclose(logits[name], logits["adapter"], atol=1e-4), name
    assert not torch.allclose(logits["base"], logits["adapter"], atol=1e-2)
    assert main(["merge", str(base), str(tmp_path / "no")]) == 2  # holds no adapter
