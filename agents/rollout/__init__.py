"""Rollouts: what is to be played, the engine that plays it, and the launchers that say where."""

from eto_gym.agents.rollout.engine import Episode, RetryPolicy, Rollout, plan_episodes

__all__ = ["Episode", "RetryPolicy", "Rollout", "plan_episodes"]
