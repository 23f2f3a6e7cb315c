"""What a group of episodes amounts to: success, reward, steps, tokens, errors by kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eto_gym.agents.evaluation.statistics import Estimate, mean, success_rate
from eto_gym.trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class Measures:
    """What a group of episodes amounts to; all intervals are those of 95%.

    Attributes:
        tasks: Tasks with at least one scored episode.
        episodes: Episodes that were scored; see `Trajectory.scored`.
        errors: Number of episodes that ended in an error, by its kind; those of "context" are
            among the scored ones, the others are not.
        success: Success rate.
        reward: Mean of the episodes' summed rewards.
        steps: Mean number of steps.
        read_tokens: Mean number of tokens that the policy computed of its conversations, over an
            episode (cached ones are not counted again); NaN where none is known.
        generated_tokens: Mean number of tokens that it generated.
        format_errors: Share of the replies that held no action.
    """

    tasks: int
    episodes: int
    errors: dict[str, int]
    success: Estimate
    reward: Estimate
    steps: Estimate
    read_tokens: Estimate
    generated_tokens: Estimate
    format_errors: float


def measure(trajectories: Iterable[Trajectory]) -> Measures:
    """Measure a group of episodes; episodes of one task are not taken for independent."""
    everything = list(trajectories)
    scored = [t for t in everything if t.scored]
    tasks = [t.task_id for t in scored]
    actions = [step.action for t in scored for step in t.steps]
    return Measures(
        tasks=len(set(tasks)),
        episodes=len(scored),
        errors=dict(sorted(Counter(str(t.error) for t in everything if t.failed_to_run).items())),
        success=success_rate([t.success for t in scored], tasks),
        reward=mean([t.reward for t in scored], tasks),
        steps=mean([len(t.steps) for t in scored], tasks),
        read_tokens=_usage(scored, "prefilled_tokens"),
        generated_tokens=_usage(scored, "decoded_tokens"),
        format_errors=actions.count(None) / len(actions) if actions else 0.0,
    )


def _usage(scored: Sequence[Trajectory], name: str) -> Estimate:
    known = [t for t in scored if name in t.usage]
    return mean([t.usage[name] for t in known], [t.task_id for t in known])


def summarise(trajectories: Iterable[Trajectory]) -> dict[str, Any]:
    """Return the measures in short, as stages of a run record them.

    Returns:
        JSON-serialisable: `episodes`, `errors`, `success`, `reward` and `format_errors` as in
        `Measures`; of `steps` and `generated_tokens` the mean alone; `by_type`, the success rate of
        each task type.
    """
    everything = list(trajectories)
    types: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in everything:
        if trajectory.scored:
            types[trajectory.task_type].append(trajectory)
    found = measure(everything)
    return {
        "episodes": found.episodes,
        "errors": found.errors,
        "success": asdict(found.success),
        "reward": asdict(found.reward),
        "steps": found.steps.mean,
        "format_errors": found.format_errors,
        "generated_tokens": found.generated_tokens.mean,
        "by_type": {name: asdict(measure(types[name]).success) for name in sorted(types)},
    }
