"""Training methods: SFT, trajectory DPO and the loops that iterate them.

The names below are imported when they are first used, so importing this package imports no torch.
"""

from typing import TYPE_CHECKING

from eto_gym.lazy import lazy_exports

if TYPE_CHECKING:
    from eto_gym.trainers.dpo import DPOSettings as DPOSettings
    from eto_gym.trainers.dpo import run_dpo as run_dpo
    from eto_gym.trainers.eto import ETOLoop as ETOLoop
    from eto_gym.trainers.eto_settings import ETOSettings as ETOSettings
    from eto_gym.trainers.group import GroupLoopSettings as GroupLoopSettings
    from eto_gym.trainers.group import GroupSettings as GroupSettings
    from eto_gym.trainers.group import GRPOLoop as GRPOLoop
    from eto_gym.trainers.group import RLOOLoop as RLOOLoop
    from eto_gym.trainers.group import run_group as run_group
    from eto_gym.trainers.mixture import MixtureLoop as MixtureLoop
    from eto_gym.trainers.mixture import MixtureLoopSettings as MixtureLoopSettings
    from eto_gym.trainers.mixture import MixtureSettings as MixtureSettings
    from eto_gym.trainers.mixture import run_mixture as run_mixture
    from eto_gym.trainers.pairing import PairingReport as PairingReport
    from eto_gym.trainers.pairing import PairingSettings as PairingSettings
    from eto_gym.trainers.pairing import make_pairs as make_pairs
    from eto_gym.trainers.ppo import PPOLoop as PPOLoop
    from eto_gym.trainers.ppo import PPOLoopSettings as PPOLoopSettings
    from eto_gym.trainers.ppo import PPOSettings as PPOSettings
    from eto_gym.trainers.ppo import run_ppo as run_ppo
    from eto_gym.trainers.presets import from_preset as from_preset
    from eto_gym.trainers.rft import RFTLoop as RFTLoop
    from eto_gym.trainers.rft import RFTSettings as RFTSettings
    from eto_gym.trainers.self_play import SelfPlayLoop as SelfPlayLoop
    from eto_gym.trainers.self_play import SelfPlaySettings as SelfPlaySettings
    from eto_gym.trainers.sft import SFTSettings as SFTSettings
    from eto_gym.trainers.sft import run_sft as run_sft
    from eto_gym.trainers.step_dpo import StepDPOLoop as StepDPOLoop
    from eto_gym.trainers.step_dpo import StepDPOSettings as StepDPOSettings
    from eto_gym.trainers.training import TrainReport as TrainReport
    from eto_gym.trainers.training import Watch as Watch

__all__ = [
    "DPOSettings",
    "ETOLoop",
    "ETOSettings",
    "GRPOLoop",
    "GroupLoopSettings",
    "GroupSettings",
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
    "SFTSettings",
    "SelfPlayLoop",
    "SelfPlaySettings",
    "StepDPOLoop",
    "StepDPOSettings",
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
        "dpo": ["DPOSettings", "run_dpo"],
        "eto": ["ETOLoop"],
        "eto_settings": ["ETOSettings"],
        "group": ["GRPOLoop", "GroupLoopSettings", "GroupSettings", "RLOOLoop", "run_group"],
        "mixture": ["MixtureLoop", "MixtureLoopSettings", "MixtureSettings", "run_mixture"],
        "pairing": ["PairingReport", "PairingSettings", "make_pairs"],
        "ppo": ["PPOLoop", "PPOLoopSettings", "PPOSettings", "run_ppo"],
        "presets": ["from_preset"],
        "rft": ["RFTLoop", "RFTSettings"],
        "self_play": ["SelfPlayLoop", "SelfPlaySettings"],
        "sft": ["SFTSettings", "run_sft"],
        "step_dpo": ["StepDPOLoop", "StepDPOSettings"],
        "training": ["TrainReport", "Watch"],
    },
)
