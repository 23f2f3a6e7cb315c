"""Trajectories: the typed record, the append-only store, and the exchange formats."""

from eto_gym.trajectories.lines import EncodedTrajectory, PlayedTrajectory
from eto_gym.trajectories.pairs import PreferencePair
from eto_gym.trajectories.record import ErrorKind, Outcome, Step, Trajectory
from eto_gym.trajectories.store import JsonlFile, TrajectoryStore

__all__ = [
    "EncodedTrajectory",
    "ErrorKind",
    "JsonlFile",
    "Outcome",
    "PlayedTrajectory",
    "PreferencePair",
    "Step",
    "Trajectory",
    "TrajectoryStore",
]
