"""The plugin `eto-gym-verifiers` of verifiers, which finds plugins among top-level modules only."""

from eto_gym.adapters.verifiers import EtoGymEnv, EtoGymTaskset

__all__ = ["EtoGymEnv", "EtoGymTaskset"]
