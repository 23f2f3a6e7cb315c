"""Trajectories: the typed record, the append-only store, and the exchange formats."""

from eto_gym.trajectories.record import ErrorKind, Outcome, Step, Trajectory

__all__ = ["ErrorKind", "Outcome", "Step", "Trajectory"]
