"""Training methods, and the loops that iterate them.

The names below are imported when they are first used, so importing this package imports no torch.
"""

from typing import TYPE_CHECKING

from eto_gym.agents.models.quiet import hide_missing_kernels
from eto_gym.lazy import lazy_exports

if TYPE_CHECKING:
    from eto_gym.trainers.data.pairing import PairingReport as PairingReport
    from eto_gym.trainers.data.pairing import make_pairs as make_pairs
    from eto_gym.trainers.loops.early_experience import EarlyExperienceLoop as EarlyExperienceLoop
    from eto_gym.trainers.loops.eto import ETOLoop as ETOLoop
    from eto_gym.trainers.loops.mixture import HPLLoop as HPLLoop
    from eto_gym.trainers.loops.mixture import MixtureLoop as MixtureLoop
    from eto_gym.trainers.loops.on_policy import GRPOLoop as GRPOLoop
    from eto_gym.trainers.loops.on_policy import PPOLoop as PPOLoop
    from eto_gym.trainers.loops.on_policy import RLOOLoop as RLOOLoop
    from eto_gym.trainers.loops.rft import RFTLoop as RFTLoop
    from eto_gym.trainers.loops.self_play import SelfPlayLoop as SelfPlayLoop
    from eto_gym.trainers.loops.step_dpo import StepDPOLoop as StepDPOLoop
    from eto_gym.trainers.methods.dpo import run_dpo as run_dpo
    from eto_gym.trainers.methods.group import run_group as run_group
    from eto_gym.trainers.methods.mixture import run_mixture as run_mixture
    from eto_gym.trainers.methods.player import EpisodePlayer as EpisodePlayer
    from eto_gym.trainers.methods.ppo import run_ppo as run_ppo
    from eto_gym.trainers.methods.sft import run_sft as run_sft
    from eto_gym.trainers.run.training import TrainReport as TrainReport
    from eto_gym.trainers.run.watch import Watch as Watch
    from eto_gym.trainers.settings.base import SettingsError as SettingsError
    from eto_gym.trainers.settings.data import ExperienceSettings as ExperienceSettings
    from eto_gym.trainers.settings.data import PairingSettings as PairingSettings
    from eto_gym.trainers.settings.data import RejectionSettings as RejectionSettings
    from eto_gym.trainers.settings.data import StepSettings as StepSettings
    from eto_gym.trainers.settings.loops import EarlyExperienceSettings as EarlyExperienceSettings
    from eto_gym.trainers.settings.loops import ETOSettings as ETOSettings
    from eto_gym.trainers.settings.loops import GroupLoopSettings as GroupLoopSettings
    from eto_gym.trainers.settings.loops import HPLLoopSettings as HPLLoopSettings
    from eto_gym.trainers.settings.loops import MixtureLoopSettings as MixtureLoopSettings
    from eto_gym.trainers.settings.loops import PPOLoopSettings as PPOLoopSettings
    from eto_gym.trainers.settings.loops import RFTSettings as RFTSettings
    from eto_gym.trainers.settings.loops import RLOOLoopSettings as RLOOLoopSettings
    from eto_gym.trainers.settings.loops import SelfPlaySettings as SelfPlaySettings
    from eto_gym.trainers.settings.loops import StepDPOSettings as StepDPOSettings
    from eto_gym.trainers.settings.methods import DPOSettings as DPOSettings
    from eto_gym.trainers.settings.methods import GroupSettings as GroupSettings
    from eto_gym.trainers.settings.methods import HPLSettings as HPLSettings
    from eto_gym.trainers.settings.methods import MixtureSettings as MixtureSettings
    from eto_gym.trainers.settings.methods import PPOSettings as PPOSettings
    from eto_gym.trainers.settings.methods import SFTSettings as SFTSettings
    from eto_gym.trainers.settings.presets import from_preset as from_preset

hide_missing_kernels()

__all__ = [
    "DPOSettings",
    "ETOLoop",
    "ETOSettings",
    "EarlyExperienceLoop",
    "EarlyExperienceSettings",
    "EpisodePlayer",
    "ExperienceSettings",
    "GRPOLoop",
    "GroupLoopSettings",
    "GroupSettings",
    "HPLLoop",
    "HPLLoopSettings",
    "HPLSettings",
    "MixtureLoop",
    "MixtureLoopSettings",
    "MixtureSettings",
    "PPOLoop",
    "PPOLoopSettings",
    "PPOSettings",
    "PairingReport",
    "PairingSettings",
    "RFTLoop",
    "RFTSettings",
    "RLOOLoop",
    "RLOOLoopSettings",
    "RejectionSettings",
    "SFTSettings",
    "SelfPlayLoop",
    "SelfPlaySettings",
    "SettingsError",
    "StepDPOLoop",
    "StepDPOSettings",
    "StepSettings",
    "TrainReport",
    "Watch",
    "from_preset",
    "make_pairs",
    "run_dpo",
    "run_group",
    "run_mixture",
    "run_ppo",
    "run_sft",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "data.pairing": ["PairingReport", "make_pairs"],
        "loops.early_experience": ["EarlyExperienceLoop"],
        "loops.eto": ["ETOLoop"],
        "loops.mixture": ["HPLLoop", "MixtureLoop"],
        "loops.on_policy": ["GRPOLoop", "PPOLoop", "RLOOLoop"],
        "loops.rft": ["RFTLoop"],
        "loops.self_play": ["SelfPlayLoop"],
        "loops.step_dpo": ["StepDPOLoop"],
        "methods.dpo": ["run_dpo"],
        "methods.group": ["run_group"],
        "methods.mixture": ["run_mixture"],
        "methods.player": ["EpisodePlayer"],
        "methods.ppo": ["run_ppo"],
        "methods.sft": ["run_sft"],
        "run.watch": ["Watch"],
        "run.training": ["TrainReport"],
        "settings.base": ["SettingsError"],
        "settings.data": [
            "ExperienceSettings",
            "PairingSettings",
            "RejectionSettings",
            "StepSettings",
        ],
        "settings.loops": [
            "ETOSettings",
            "EarlyExperienceSettings",
            "GroupLoopSettings",
            "HPLLoopSettings",
            "MixtureLoopSettings",
            "PPOLoopSettings",
            "RFTSettings",
            "RLOOLoopSettings",
            "SelfPlaySettings",
            "StepDPOSettings",
        ],
        "settings.methods": [
            "DPOSettings",
            "GroupSettings",
            "HPLSettings",
            "MixtureSettings",
            "PPOSettings",
            "SFTSettings",
        ],
        "settings.presets": ["from_preset"],
    },
)
