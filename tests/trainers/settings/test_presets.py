"""Presets name the source of every value; the command line shows them, and takes short forms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli import train
from eto_gym.errors import UnknownNameError
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trainers.settings.methods import SFTSettings
from eto_gym.trainers.settings.presets import PRESETS, from_preset, preset_values, settings_from

pytest.importorskip("jsonargparse")


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert train.main(["eto", *words, "--dry-run"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_has_a_source_that_the_dry_run_prints(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = dry_run(capsys, "--preset", name)
    values = settings_from(ETOSettings, preset=name, env=ETOSettings.env)
    del values["preset"]
    assert values
    for setting, (value, source) in values.items():
        assert source.startswith(("paper", "scripts of", "own choice", "QLoRA paper")), setting
        assert f"# {setting}: {value}   <- {source}" in printed
    from_preset(ETOSettings, name)  # all values are legal together


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"paper", "script", "llama-2-7b", "smoke"}))
def test_presets_that_are_not_the_papers_guard_by_success(name: str) -> None:
    for env, split in {"ETO/ALFWorld-v0": "dev", "ETO/WebShop-v0": "train"}.items():
        settings = from_preset(ETOSettings, name, env=env)
        few = {"quickstart": {"ETO/WebShop-v0": 40}, "smollm2": {"": 15}}.get(name, {})
        assert settings.dev_tasks >= few.get(env, few.get("", 100))  # for two CPU cores
        assert settings.dev_split == split


def test_what_chooses_the_weights_is_not_what_is_reported() -> None:
    with pytest.raises(SettingsError, match="dev_split"):
        from_preset(ETOSettings, "quickstart", eval_split="dev")
    from_preset(ETOSettings, "quickstart", eval_split="dev", dev_tasks=0)


def test_paper_and_script_differ_where_they_do() -> None:
    paper = from_preset(ETOSettings, "paper", env="ETO/WebShop-v0")
    script = from_preset(ETOSettings, "script", env="ETO/WebShop-v0")
    assert (paper.iterations, script.iterations) == (2, 3)
    assert preset_values("paper", "ETO/ALFWorld-v0")["iterations"] == 1
    assert (paper.sft.learning_rate, script.sft.learning_rate) == (1e-5, 2e-5)
    assert paper.dpo == paper.dpo_of(2) == script.dpo == script.dpo_of(1)
    assert (paper.dpo.beta, paper.dpo.learning_rate) == (0.1, 1e-6)
    assert (script.dpo_of(2).beta, script.dpo_of(2).learning_rate) == (0.5, 5e-7)
    assert script.dpo_of(3) == script.dpo_of(2)
    with pytest.raises(SettingsError, match="dpo_later"):
        ETOSettings(dpo_later={"betta": 0.5})
    with pytest.raises(SettingsError, match="beta"):
        ETOSettings(dpo_later={"beta": -1})
    with pytest.raises(UnknownNameError, match="Did you mean 'paper'"):
        preset_values("papers")


def test_short_forms_set_the_adapters_fields(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> str:
        """Return the settings without the comments that name their sources."""
        return "\n".join(w for w in dry_run(capsys, *words).splitlines() if not w.startswith("#"))

    lora = told("--preset", "quickstart", "--lora")
    assert lora.count("lora_r: 16") == 2  # sft and dpo; the base stage trains whole weights
    assert "qlora: true" not in lora
    qlora = told("--qlora", "--sft.lora_r", "8", "--dpo.lora_r", "8")
    assert (qlora.count("lora_r: 16"), qlora.count("lora_r: 8")) == (0, 2)
    for value in ("  qlora: true", "  precision: bf16", "  optimizer: paged_adamw8bit"):
        assert qlora.count(value) == 2, value


def test_nothing_is_reported_or_uploaded_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    import huggingface_hub

    from eto_gym.trainers import SFTSettings
    from eto_gym.trainers.model.models import push_model
    from eto_gym.trainers.run.base_trainer import training_arguments
    from eto_gym.trainers.settings.base import deciding

    plain = SFTSettings()
    assert (plain.report_to, plain.push_to_hub) == ("", "")
    assert training_arguments(plain, tmp_path)["report_to"] == []
    told = dataclasses.replace(plain, report_to="wandb, tensorboard", push_to_hub="me/model")
    assert training_arguments(told, tmp_path)["report_to"] == ["wandb", "tensorboard"]
    assert deciding(told) == deciding(plain)  # a run goes on, wherever it reports to

    calls: list[tuple[str, Any]] = []

    class Api:
        def create_repo(self, name: str, **options: Any) -> None:
            calls.append((name, options))

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    push_model(tmp_path, "me/model", private=True)
    assert calls == [
        ("me/model", {"private": True, "exist_ok": True}),
        ("upload", {"repo_id": "me/model", "folder_path": str(tmp_path)}),
    ]


def test_the_seed_of_a_run_reaches_every_part_of_it() -> None:
    given = ETOSettings(seed=3, sft=SFTSettings(seed=10), data="builtin:small")
    run = given.seeded()
    assert (run.sft.seed, run.dpo.seed, run.base.seed, run.base.train.seed) == (13, 3, 3, 3)
    assert run.seed == 3
    unseeded = dataclasses.replace(
        run, sft=given.sft, dpo=given.dpo, base=given.base, pairing=given.pairing
    )
    assert unseeded == given


def test_the_run_folder_records_the_settings_as_they_were_given(tmp_path: Path) -> None:
    class Nothing(ETOLoop):
        def _run_stages(self) -> None:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Nothing(ETOSettings(seed=3), tmp_path).run()
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert (recorded["seed"], recorded["dpo"]["seed"]) == (3, 0)


def test_numbers_of_a_file_are_numbers_and_names_that_begin_so_are_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("seed: 3\nmodel: 1e5-of-mine\ndpo: {learning_rate: 1e-5}\n")
    printed = dry_run(capsys, "--config", str(file))
    assert "seed: 3" in printed
    assert "model: 1e5-of-mine" in printed
    assert "learning_rate: 1.0e-05" in printed


@pytest.mark.parametrize("changes", [{"iteration": 2}, {"sft": {"epoch": 2.0}}])
def test_a_change_of_no_setting_is_refused_by_name(changes: dict[str, Any]) -> None:
    wrong = next(iter(changes.get("sft", changes)))
    with pytest.raises(UnknownNameError, match=f"{wrong}'. Did you mean '{wrong}s'"):
        from_preset(ETOSettings, "quickstart", **changes)
