"""Tools for tests: the contract of a text environment, and a model server that fails as told."""

from eto_gym.env import text_env
from eto_gym.testing.contract import TextEnvContract, TextGymEnv, play, random_step

__all__ = ["TextEnvContract", "TextGymEnv", "play", "random_step", "text_env"]
