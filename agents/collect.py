"""The short import path of collecting episodes."""

from eto_gym.agents.rollout.collect import RolloutSpec, collect, gather, latest

__all__ = ["RolloutSpec", "collect", "gather", "latest"]
