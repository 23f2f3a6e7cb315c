"""Training methods: SFT, trajectory DPO and the loop that iterates them.

Importing this package imports no torch; the run functions do.
"""

from eto_gym.trainers.dpo import DPOSettings, run_dpo
from eto_gym.trainers.pairing import PairingReport, PairingSettings, make_pairs
from eto_gym.trainers.sft import SFTSettings, run_sft
from eto_gym.trainers.training import TrainReport, Watch

__all__ = [
    "DPOSettings",
    "PairingReport",
    "PairingSettings",
    "SFTSettings",
    "TrainReport",
    "Watch",
    "make_pairs",
    "run_dpo",
    "run_sft",
]
