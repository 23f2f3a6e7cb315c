"""What stages leave in their folders for those that follow: trajectories, pairs, models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eto_gym.errors import EtoGymError
from eto_gym.files import write_json
from eto_gym.trainers.run_folder import Stage
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import read_pair, read_records, to_paper_dpo
from eto_gym.trajectories.pairs import PreferencePair

TRAJECTORIES = "trajectories.jsonl"
PAIRS = "pairs.json"
MODEL = "model"


class NothingToLearnError(EtoGymError):
    """What was played holds nothing that the next training could learn from."""


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
        NothingToLearnError: There are none.
    """
    pairs = [read_pair(record) for record in read_records(stage.path / PAIRS)]
    if not pairs:
        raise NothingToLearnError(_why_no_pair(stage.result))
    return pairs


_WHY = {
    "tie": "earned as much as what they were to be paired with",
    "single_sample": "tasks with a single usable episode",
    "no_expert": "of a task without an expert's episode",
    "agent_error": "failed to run",
    "expert_error": "experts' episodes that failed to run",
    "identical": "did the same as what they were to be paired with",
    "different_prompt": "began otherwise than the expert's episode",
    "nothing_trained": "without a reply",
    "below_threshold": "steps worth about as much as the expert's",
    "same_outcome": "steps that led to the same rewards",
    "no_value": "steps whose episodes all failed to run",
}


def _why_no_pair(result: dict[str, Any]) -> str:
    """Say what was explored, why nothing of it made a pair, and what would change that."""
    reasons = [f"{count} {_WHY.get(name, name)}" for name, count in result["skipped"].items()]
    why = "; ".join(reasons) or "there was nothing to compare"
    if "alternatives" in result:
        explored = f"{result['steps']} steps of {result['experts']} experts' episodes"
        change = "more --explore_tasks, more --steps.rollouts or a higher --steps.temperature"
    else:
        explored = f"{result['trajectories']} explored trajectories"
        change = (
            "--pairing.contrast expert (failures against the experts' successes, where there are "
            "experts), more --explore_samples or --explore_tasks, or a higher --explore_temperature"
        )
    return f"{explored} made no pair ({why}). What may change that: {change}"


def write_pairs(folder: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs into a stage's folder, in the paper's form."""
    write_json(folder / PAIRS, [to_paper_dpo(pair) for pair in pairs])


def model_of(stage: Stage) -> str:
    """Return the path or name of the model that a stage made or names."""
    if stage.name == "model":
        return str(stage.result["model"])
    return str(stage.path / MODEL)
