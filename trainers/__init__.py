"""Training methods: SFT, trajectory DPO and the loop that iterates them.

Importing this package imports no torch; the run functions do.
"""

from eto_gym.trainers.dpo import DPOReport, DPOSettings, run_dpo
from eto_gym.trainers.pairing import PairingReport, PairingSettings, make_pairs
from eto_gym.trainers.sft import SFTReport, SFTSettings, run_sft

__all__ = [
    "DPOReport",
    "DPOSettings",
    "PairingReport",
    "PairingSettings",
    "SFTReport",
    "SFTSettings",
    "make_pairs",
    "run_dpo",
    "run_sft",
]
