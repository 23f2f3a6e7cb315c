from __future__ import annotations

from pathlib import Path

import pytest

from eto_gym.errors import UnknownNameError
from eto_gym.trainers.loops.run_folder import FINISHED
from eto_gym.trainers.loops.self_play import SelfPlayLoop
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trainers.settings.loops import SelfPlaySettings
from eto_gym.trainers.settings.methods import DPOSettings, SFTSettings
from eto_gym.trainers.settings.presets import PRESETS, preset_values
from tests.trainers.locks import GENTLE, MUON, PLAY, assert_learnt


@pytest.mark.slow  # RFT and ETO, which learn apart in tests of their own
def test_it_learns_from_its_own_episodes_alone(locksmith: Path, tmp_path: Path) -> None:
    settings = SelfPlaySettings(
        **PLAY,
        model=str(locksmith),
        explore_tasks=256,
        explore_samples=8,
        sft=SFTSettings(**MUON, epochs=1),
        dpo=DPOSettings(**{**GENTLE, "learning_rate": 3e-4}, epochs=2),
    )  # fmt: skip
    report = SelfPlayLoop(settings, tmp_path).run()
    assert report["reference"] == "untrained (model)"
    assert [stage["name"] for stage in report["stages"]] == [
        "model", "eval-untrained", "explore-rft-1", "kept-1", "rft-1", "eval-rft-1",
        "explore-eto-1", "pairs-1", "eto-1", "eval-eto-1",
    ]  # fmt: skip
    assert not list((tmp_path / "stages").glob("experts*"))
    # With seeds 0, 1 and 2: 0.57, 0.44, 0.50 after RFT; 0.51, 0.44, 0.58 after ETO.
    assert_learnt(report, "RFT, iteration 1")
    assert_learnt(report, "ETO, iteration 1")


def test_an_expert_is_refused() -> None:
    with pytest.raises(SettingsError, match="no expert"):
        SelfPlaySettings(pairing=PairingSettings(contrast="expert"))
    with pytest.raises(UnknownNameError, match="phases"):
        SelfPlaySettings(phases="eto+rft")
    for name in PRESETS:
        assert preset_values(name, kind=SelfPlaySettings)["pairing"]["contrast"] == "self"


def test_a_run_without_a_pair_ends_with_its_report(locksmith: Path, tmp_path: Path) -> None:
    settings = SelfPlaySettings(
        **PLAY, model=str(locksmith), phases="eto", explore_tasks=3, explore_samples=1, eval_tasks=4
    )
    report = SelfPlayLoop(settings, tmp_path).run()
    assert [row["policy"] for row in report["policies"]] == [f"untrained ({locksmith.name})"]
    written = (tmp_path / "report.md").read_text()
    last = written.strip().splitlines()[-1]
    assert last.startswith("ENDED EARLY: ")
    assert "single_sample 3" in last
    assert "--pairing.contrast expert" in last
    assert not (tmp_path / FINISHED).exists()


def test_a_run_without_a_success_ends_with_its_report(locksmith: Path, tmp_path: Path) -> None:
    settings = SelfPlaySettings(
        **{**PLAY, "max_new_tokens": 1},
        model=str(locksmith),
        phases="rft",
        explore_tasks=3,
        explore_samples=2,
        eval_tasks=4,
    )
    report = SelfPlayLoop(settings, tmp_path).run()
    assert "none of the 0 of kept-1 is one" in report["ended"]
