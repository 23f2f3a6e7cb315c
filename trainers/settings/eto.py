"""Settings of the ETO loop; `eto_gym.trainers.settings.presets` fills them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from eto_gym.trainers.data.pairing import PairingSettings
from eto_gym.trainers.methods.dpo import DPOSettings
from eto_gym.trainers.methods.sft import SFTSettings
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.loops import (
    ControlSettings,
    ExpertSettings,
    ExplorationSettings,
    WorldSettings,
)


@dataclass(frozen=True, kw_only=True)
class ETOSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of the loop does; the defaults are the paper's where it names a value."""

    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    dpo: DPOSettings = field(default_factory=DPOSettings)
    dpo_later: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "values of dpo from the second iteration on, such as {'beta': 0.5}"},
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        self.dpo_of(2)  # refuses unknown names and values now, not hours later

    def dpo_of(self, iteration: int) -> DPOSettings:
        """Return the settings of preference training in an iteration, counted from 1."""
        try:
            return dataclasses.replace(self.dpo, **(self.dpo_later if iteration > 1 else {}))
        except TypeError as err:
            raise SettingsError(f"dpo_later: {err}") from err
