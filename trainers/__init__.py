"""Training methods: SFT, trajectory DPO and the loops that iterate them.

The names below are imported when they are first used, so importing this package imports no torch.
"""

from typing import TYPE_CHECKING

from eto_gym.lazy import lazy_exports

if TYPE_CHECKING:
    from eto_gym.trainers.data.pairing import PairingReport as PairingReport
    from eto_gym.trainers.data.pairing import PairingSettings as PairingSettings
    from eto_gym.trainers.data.pairing import make_pairs as make_pairs
    from eto_gym.trainers.loops.eto import ETOLoop as ETOLoop
    from eto_gym.trainers.loops.rft import RFTLoop as RFTLoop
    from eto_gym.trainers.loops.rft import RFTSettings as RFTSettings
    from eto_gym.trainers.loops.self_play import SelfPlayLoop as SelfPlayLoop
    from eto_gym.trainers.loops.self_play import SelfPlaySettings as SelfPlaySettings
    from eto_gym.trainers.loops.step_dpo import StepDPOLoop as StepDPOLoop
    from eto_gym.trainers.loops.step_dpo import StepDPOSettings as StepDPOSettings
    from eto_gym.trainers.methods.dpo import DPOSettings as DPOSettings
    from eto_gym.trainers.methods.dpo import run_dpo as run_dpo
    from eto_gym.trainers.methods.group import GroupLoopSettings as GroupLoopSettings
    from eto_gym.trainers.methods.group import GroupSettings as GroupSettings
    from eto_gym.trainers.methods.group import GRPOLoop as GRPOLoop
    from eto_gym.trainers.methods.group import RLOOLoop as RLOOLoop
    from eto_gym.trainers.methods.group import run_group as run_group
    from eto_gym.trainers.methods.mixture import MixtureLoop as MixtureLoop
    from eto_gym.trainers.methods.mixture import MixtureLoopSettings as MixtureLoopSettings
    from eto_gym.trainers.methods.mixture import MixtureSettings as MixtureSettings
    from eto_gym.trainers.methods.mixture import run_mixture as run_mixture
    from eto_gym.trainers.methods.ppo import PPOLoop as PPOLoop
    from eto_gym.trainers.methods.ppo import PPOLoopSettings as PPOLoopSettings
    from eto_gym.trainers.methods.ppo import PPOSettings as PPOSettings
    from eto_gym.trainers.methods.ppo import run_ppo as run_ppo
    from eto_gym.trainers.methods.sft import SFTSettings as SFTSettings
    from eto_gym.trainers.methods.sft import run_sft as run_sft
    from eto_gym.trainers.run.training import TrainReport as TrainReport
    from eto_gym.trainers.run.training import Watch as Watch
    from eto_gym.trainers.settings.eto import ETOSettings as ETOSettings
    from eto_gym.trainers.settings.presets import from_preset as from_preset

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
        "methods.dpo": ["DPOSettings", "run_dpo"],
        "loops.eto": ["ETOLoop"],
        "settings.eto": ["ETOSettings"],
        "methods.group": [
            "GRPOLoop",
            "GroupLoopSettings",
            "GroupSettings",
            "RLOOLoop",
            "run_group",
        ],
        "methods.mixture": ["MixtureLoop", "MixtureLoopSettings", "MixtureSettings", "run_mixture"],
        "data.pairing": ["PairingReport", "PairingSettings", "make_pairs"],
        "methods.ppo": ["PPOLoop", "PPOLoopSettings", "PPOSettings", "run_ppo"],
        "settings.presets": ["from_preset"],
        "loops.rft": ["RFTLoop", "RFTSettings"],
        "loops.self_play": ["SelfPlayLoop", "SelfPlaySettings"],
        "methods.sft": ["SFTSettings", "run_sft"],
        "loops.step_dpo": ["StepDPOLoop", "StepDPOSettings"],
        "run.training": ["TrainReport", "Watch"],
    },
)
