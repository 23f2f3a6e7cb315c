"""Policies and the rollout engine: whatever acts in an environment."""
