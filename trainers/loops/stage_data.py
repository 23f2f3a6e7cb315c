"""Reads and writes what stages leave to those that follow: trajectories, pairs, models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eto_gym.errors import EtoGymError
from eto_gym.files import write_json
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.eto_experts import POLICY
from eto_gym.trajectories.formats import read_pair, read_records, to_paper_dpo
from eto_gym.trajectories.pairs import PreferencePair


class NothingToLearn(EtoGymError):
    """What was played holds nothing that the next training could learn from."""


TRAJECTORIES = "trajectories.jsonl"
PAIRS = "pairs.json"
MODEL = "model"


def load_trajectories(*stages: Stage) -> list[Trajectory]:
    """Return the trajectories of some stages, one stage after the other."""
    return [t for stage in stages for t in TrajectoryStore(stage.path / TRAJECTORIES).load()]


def is_demonstration(trajectory: Trajectory) -> bool:
    """Whether a trajectory is to be imitated: it succeeded, or it is one of the paper's experts.

    The paper's WebShop experts did not all buy exactly what was wanted; it imitates them all.
    """
    return trajectory.success or trajectory.policy == POLICY


def write_trajectories(folder: Path, trajectories: Iterable[Trajectory]) -> None:
    """Write trajectories into a stage's folder, in place of what an interrupted attempt wrote."""
    (folder / TRAJECTORIES).unlink(missing_ok=True)
    with TrajectoryStore(folder / TRAJECTORIES) as store:
        for trajectory in trajectories:
            store.add(trajectory)


def load_pairs(stage: Stage) -> list[PreferencePair]:
    """Return the pairs of a stage.

    Raises:
        NothingToLearn: There are none.
    """
    pairs = [read_pair(record) for record in read_records(stage.path / PAIRS)]
    if not pairs:
        found = dict(stage.result)
        reasons = found.pop("skipped", {})
        found.pop("player", None)
        found.update({f"{kind} errors": n for kind, n in found.pop("errors", {}).items()})
        why = ", ".join(f"{name} {count}" for name, count in reasons.items()) or "no candidates"
        counts = ", ".join(f"{name} {count}" for name, count in found.items() if count)
        raise NothingToLearn(
            f"{stage.name} holds no pair to learn from. Not paired: {why}"
            + (f" ({counts})" if counts else "")
            + ". Explore more tasks or samples, at another temperature; where all of the agent's "
            "own episodes end alike, --pairing.contrast expert pairs them with the expert's"
        )
    return pairs


def write_pairs(folder: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs into a stage's folder, in the paper's form."""
    write_json(folder / PAIRS, [to_paper_dpo(pair) for pair in pairs])


def model_of(stage: Stage) -> str:
    """Return the path or name of the model that a stage made or names."""
    if stage.name == "model":
        return str(stage.result["model"])
    return str(stage.path / MODEL)
