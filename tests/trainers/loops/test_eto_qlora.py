"""`eto-gym train eto --qlora`, from the command line to the merged model, through a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policy import Conversation
from eto_gym.cli import train
from eto_gym.cli.main import main
from eto_gym.prompt import Message
from eto_gym.trainers.loops.run_folder import FINISHED
from eto_gym.trainers.settings.presets import ADAPTERS
from tests.trainers.checkpoints import die_after_checkpoint, noted_checkpoints
from tests.trainers.loops.test_eto import small_settings, stage
from tests.trainers.processes import fork_one

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")
pytest.importorskip("jsonargparse")

ADAPTED = ("sft", "eto-1", "eto-2", "control")


def _command(folder: Path) -> list[str]:
    """Return a command that is small, but for the eight epochs in which it is to be killed."""
    values = small_settings(iterations=2, dev_tasks=2, dev_every=4, patience=0).to_json()
    values["base"] |= {"hidden_size": 64, "mlp_size": 64}  # whole blocks of four-bit weights
    for name in ("sft", "dpo"):
        for key in ADAPTERS["qlora"]:
            del values[name][key]  # left to --qlora
    values["sft"]["learning_rate"] = 1e-2
    values["dpo"] |= {"epochs": 8.0, "save_every": 1, "learning_rate": 1e-3}
    values["dpo"]["chosen_drop_limit"] = 0.0
    config = folder / "small.json"
    config.write_text(json.dumps(values))
    out = str(folder / "run")
    return ["eto", "--qlora", "--config", str(config), "--out", out]


def _run_until_killed(words: list[str]) -> None:
    die_after_checkpoint("eto-2-", 1)
    train.main(words)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path | None]]:
    """The run folder, killed once and finished then; and what trainings were resumed from."""

    folder = tmp_path_factory.mktemp("qlora")
    words = _command(folder)
    stages = folder / "run" / "stages"
    assert fork_one(_run_until_killed, words) == -signal.SIGKILL
    assert not any(stages.glob(f"eto-2-????????????/{FINISHED}"))
    before = {path: path.stat().st_mtime_ns for path in stages.glob(f"*/{FINISHED}")}
    with noted_checkpoints() as checkpoints:
        assert train.main(words) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    return folder / "run", checkpoints


def test_a_killed_run_goes_on_from_its_checkpoint(
    resumed: tuple[Path, list[Path | None]],
) -> None:
    folder, checkpoints = resumed
    assert (folder / FINISHED).is_file()
    # What was left to train: the rest of the second iteration, and the control.
    assert len(checkpoints) == 2
    assert checkpoints[0] is not None
    assert checkpoints[0].parent.parent == stage(folder, "eto-2")
    assert checkpoints[1] is None
    report = json.loads((stage(folder, "eto-2") / "model" / "training.json").read_text())
    assert [entry["step"] for entry in report["metrics"]] == list(range(1, report["steps"] + 1))
    assert report["steps"] >= 8
    # The dev tasks are played on the four-bit base in between.
    scored = [*range(0, report["steps"], 4), report["steps"]]
    assert [step for step, _ in report["scores"]] == scored


def test_one_four_bit_adapter_goes_through_both_iterations(
    resumed: tuple[Path, list[Path | None]],
) -> None:
    folder, _ = resumed
    base = (stage(folder, "base") / "model").resolve()
    for name in ADAPTED:
        model = stage(folder, name) / "model"
        assert not (model / "model.safetensors").exists()
        config = json.loads((model / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base)
        settings = json.loads((model / "training.json").read_text())["settings"]
        assert settings["qlora"]
        assert settings["precision"] == "bf16"
        assert settings["optimizer"] == "paged_adamw8bit"
    for name in ("eto-1", "eto-2"):
        # log 2: the reference is the adapter that training goes on with, on the same base.
        report = json.loads((stage(folder, name) / "model" / "training.json").read_text())
        assert report["metrics"][0]["loss"] == pytest.approx(0.693147, abs=1e-3)
        assert report["metrics"][-1]["loss"] < 0.65
    rows = json.loads((folder / "report.json").read_text())["policies"]
    assert [row["policy"] for row in rows][-2:] == ["ETO, iteration 2", "control: SFT continued"]
    assert all(row["episodes"] == 5 and not row["errors"] for row in rows)


def test_the_merged_model_says_what_base_and_adapter_say(
    resumed: tuple[Path, list[Path | None]], tmp_path: Path
) -> None:
    """Compared on the base in its own precision: there the adapter is evaluated and merged."""
    from eto_gym.agents.models.local import LocalPolicy

    folder, _ = resumed
    adapter, base = (str(stage(folder, name) / "model") for name in ("eto-2", "base"))
    assert main(["merge", adapter, str(tmp_path / "merged")]) == 0
    options: dict[str, Any] = {"max_new_tokens": 12, "dtype": "float32"}
    policies = {
        "adapter": LocalPolicy.from_pretrained(adapter, **options),
        "merged": LocalPolicy.from_pretrained(str(tmp_path / "merged"), **options),
        "base": LocalPolicy.from_pretrained(base, **options),
        "adapter on four bits": LocalPolicy.from_pretrained(
            base, adapter=adapter, quantization="4bit", **options
        ),
        "four bits": LocalPolicy.from_pretrained(base, quantization="4bit", **options),
    }
    talks = [
        Conversation(key=room, messages=(Message("user", f"You are in the {room}."),), seed=0)
        for room in ("kitchen", "middle of a room", "bath")
    ]
    said = {name: [reply.text for reply in policy.act(talks)] for name, policy in policies.items()}
    assert said["merged"] == said["adapter"]
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        logits = {
            name: policy._decoder._model(input_ids=ids).logits for name, policy in policies.items()
        }
    assert torch.allclose(logits["merged"], logits["adapter"], atol=1e-4)
    # It was trained on the base in four bits, and does to the whole base what it does to that.
    learnt = (logits["merged"] - logits["base"]).flatten()
    trained = (logits["adapter on four bits"] - logits["four bits"]).flatten()
    assert torch.cosine_similarity(learnt, trained, dim=0) > 0.9
    assert not torch.allclose(logits["four bits"], logits["base"], atol=1e-2)
