"""Stable-Baselines3 on text environments: choosing among the admissible actions.

`candidates` and `features` turn text into fixed-size arrays and need numpy alone; `vec_env`,
`networks` and `training` need the extra `sb3`.
"""

from eto_gym.agents.sb3.candidates import Candidates, CandidatesEnv
from eto_gym.agents.sb3.features import EmbeddedText, HashedText, TextFeatures

__all__ = ["Candidates", "CandidatesEnv", "EmbeddedText", "HashedText", "TextFeatures"]
