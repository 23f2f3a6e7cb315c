"""Self-play: no expert; the agent learns from its own successes, and from its own failures.

Source: the section "self-play" of Song et al., 2024 (https://arxiv.org/abs/2403.02502): RFT on own
successes alone, ETO on own pairs alone, and RFT followed by ETO.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from eto_gym.trainers.data.pairing import PairingSettings
from eto_gym.trainers.data.rejection import RejectionSettings
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.methods.dpo import DPOSettings
from eto_gym.trainers.methods.sft import SFTSettings
from eto_gym.trainers.settings.base import SettingsError, option
from eto_gym.trainers.settings.loops import ExplorationSettings, WorldSettings
from eto_gym.trainers.settings.presets import narrowed, sourced


@dataclass(frozen=True, kw_only=True)
class SelfPlaySettings(WorldSettings, ExplorationSettings):
    """What one run without an expert does."""

    explore_samples: int = option(
        10, "episodes per task in exploration; pairs and successes both need several"
    )
    explore_temperature: float = option(
        1.0, "sampling temperature of exploration; an untrained agent must try many things"
    )
    phases: str = option(
        "rft+eto",
        "what each iteration consists of: 'rft', SFT on own successes; 'eto', DPO on pairs of own "
        "episodes; 'rft+eto', the one and then the other, each with its own exploration",
        paper="all three: 48.4, 12.5 and 51.2 on WebShop",
        choices=("rft+eto", "rft", "eto"),
    )
    keep: RejectionSettings = field(default_factory=RejectionSettings)
    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=lambda: PairingSettings(contrast="self"))
    dpo: DPOSettings = field(default_factory=DPOSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.phases not in ("rft+eto", "rft", "eto"):
            raise SettingsError(f"expected phases 'rft+eto', 'rft' or 'eto', got {self.phases!r}")
        if self.pairing.contrast != "self":
            raise SettingsError("self-play has no expert: expected pairing.contrast 'self'")


PRESETS = {
    name: {
        **values,
        "pairing": {**values.get("pairing", {}), **sourced("there is no expert", contrast="self")},
    }
    for name, values in narrowed(SelfPlaySettings).items()
}
"""Name of a preset -> the settings in which it differs from the defaults; those of ETO."""


class SelfPlayLoop(Loop[SelfPlaySettings]):
    """One run of self-play in a run folder."""

    method = "self-play"
    reference = None

    def _run_stages(self) -> None:
        s = self.settings
        current = self._start_model()
        for i in range(1, s.iterations + 1):
            if "rft" in s.phases:
                current = self._imitate(i, current)
            if "eto" in s.phases:
                current = self._contrast(i, current)

    def _imitate(self, i: int, current: Stage) -> Stage:
        s = self.settings
        explored = self._explore(f"explore-rft-{i}", current, s, tasks=0)
        kept = self._keep(f"kept-{i}", s.keep, explored)
        current = self._sft(f"rft-{i}", s.sft, current, kept)
        self._evaluate(f"RFT, iteration {i}", f"rft-{i}", current)
        return current

    def _contrast(self, i: int, current: Stage) -> Stage:
        s = self.settings
        explored = self._explore(f"explore-eto-{i}", current, s, tasks=0)
        pairs = self._pair(f"pairs-{i}", s.pairing, None, explored)
        current = self._prefer(f"eto-{i}", s.dpo, current, pairs)
        self._evaluate(f"ETO, iteration {i}", f"eto-{i}", current)
        return current
