"""What stages leave in their folders for those that follow: trajectories, pairs, models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eto_gym.errors import EtoGymError
from eto_gym.files import write_json
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import read_pair, read_records, to_paper_dpo
from eto_gym.trajectories.pairs import PreferencePair

TRAJECTORIES = "trajectories.jsonl"
PAIRS = "pairs.json"
MODEL = "model"


def load_trajectories(*stages: Stage) -> list[Trajectory]:
    """Return the trajectories of some stages, one stage after the other."""
    return [t for stage in stages for t in TrajectoryStore(stage.path / TRAJECTORIES).load()]


def write_trajectories(folder: Path, trajectories: Iterable[Trajectory]) -> None:
    """Write trajectories into a stage's folder, in place of what an interrupted attempt wrote."""
    (folder / TRAJECTORIES).unlink(missing_ok=True)
    with TrajectoryStore(folder / TRAJECTORIES) as store:
        for trajectory in trajectories:
            store.add(trajectory)


def load_pairs(stage: Stage) -> list[PreferencePair]:
    """Return the pairs of a stage.

    Raises:
        EtoGymError: There are none.
    """
    pairs = [read_pair(record) for record in read_records(stage.path / PAIRS)]
    if not pairs:
        raise EtoGymError(f"no pair to learn from: {stage.result}. Explore more tasks or samples")
    return pairs


def write_pairs(folder: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs into a stage's folder, in the paper's form."""
    write_json(folder / PAIRS, [to_paper_dpo(pair) for pair in pairs])


def model_of(stage: Stage) -> str:
    """Return the path or name of the model that a stage made or names."""
    if stage.name == "model":
        return str(stage.result["model"])
    return str(stage.path / MODEL)
