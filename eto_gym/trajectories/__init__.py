"""Trajectories: the typed record, the append-only store, and the exchange formats."""

from eto_gym.trajectories.pairs import PreferencePair
from eto_gym.trajectories.record import ErrorKind, Outcome, Step, Trajectory
from eto_gym.trajectories.store import JsonlFile, TrajectoryStore

__all__ = [
    "ErrorKind",
    "JsonlFile",
    "Outcome",
    "PreferencePair",
    "Step",
    "Trajectory",
    "TrajectoryStore",
]
