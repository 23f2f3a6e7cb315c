from __future__ import annotations

from pathlib import Path

import pytest

from eto_gym.trainers.data.pairing import PairingSettings
from eto_gym.trainers.loops.self_play import PRESETS, SelfPlayLoop, SelfPlaySettings
from eto_gym.trainers.methods.dpo import DPOSettings
from eto_gym.trainers.methods.sft import SFTSettings
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.presets import preset_values
from tests.trainers.locks import GENTLE, MUON, PLAY, rates


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
    success = rates(report)
    assert report["reference"] == "untrained (model)"
    assert [stage["name"] for stage in report["stages"]] == [
        "model", "eval-untrained", "explore-rft-1", "kept-1", "rft-1", "eval-rft-1",
        "explore-eto-1", "pairs-1", "eto-1", "eval-eto-1",
    ]  # fmt: skip
    assert not list((tmp_path / "stages").glob("experts*"))
    assert success["untrained (model)"] < 0.25
    # Chance is 0.11. With seeds 0, 1 and 2: 0.57, 0.44, 0.50 after RFT; 0.51, 0.44, 0.58 after ETO.
    assert success["RFT, iteration 1"] > 0.35
    assert success["ETO, iteration 1"] > 0.35


def test_an_expert_is_refused() -> None:
    with pytest.raises(SettingsError, match="no expert"):
        SelfPlaySettings(pairing=PairingSettings(contrast="expert"))
    with pytest.raises(SettingsError, match="phases"):
        SelfPlaySettings(phases="eto+rft")
    assert all(preset_values(x, presets=PRESETS)["pairing"]["contrast"] == "self" for x in PRESETS)
