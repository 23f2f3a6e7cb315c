"""The files for `accelerate launch` say what the installed accelerate understands."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import SFTSettings
from eto_gym.trainers.settings.base import SettingsError

pytest.importorskip("torch")
pytest.importorskip("accelerate")
yaml = pytest.importorskip("yaml")

CONFIGS = Path(__file__).parents[3] / "configs" / "accelerate"
FILES = sorted(CONFIGS.glob("*.yaml"))
DEEPSPEED = {  # of `accelerate launch`, whose options the file's keys are
    "gradient_accumulation_steps",
    "gradient_clipping",
    "offload_optimizer_device",
    "offload_param_device",
    "zero3_init_flag",
    "zero3_save_16bit_model",
    "zero_stage",
}


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def test_there_are_all() -> None:
    assert [path.stem for path in FILES] == ["cpu", "ddp", "fsdp", "zero2", "zero3"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    config = ClusterConfig.from_yaml_file(yaml_file=str(path))  # refuses unknown keys
    assert config.num_processes >= 2
    options = {action.dest for action in launch_command_parser()._actions}
    raw = read(path)
    for name in raw.get("fsdp_config", {}):
        assert name in options, name
    assert set(raw.get("deepspeed_config", {})) <= DEEPSPEED & options


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_settings_decide_the_precision(path: Path) -> None:
    assert read(path)["mixed_precision"] == "no"


def test_another_precision_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from eto_gym.trainers.run.base_trainer import training_arguments

    settings = SFTSettings(precision="fp32")
    for word, fits in (("no", True), ("bf16", False), ("fp16", False)):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", word)
        refusal = pytest.raises(SettingsError, match=f"{word}, and .* precision is fp32")
        with contextlib.nullcontext() if fits else refusal:
            assert training_arguments(settings, tmp_path)["bf16"] is False
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert training_arguments(SFTSettings(precision="bf16"), tmp_path)["bf16"] is True


def test_fsdp_plugin_takes_the_values() -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    known = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
    raw = read(CONFIGS / "fsdp.yaml")["fsdp_config"]
    rename = {"offload_params": "cpu_offload"}
    names = {name.removeprefix("fsdp_") if name != "fsdp_version" else name for name in raw}
    assert {rename.get(name, name) for name in names} <= known
