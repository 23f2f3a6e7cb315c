"""Equal budgets for unlike methods: what each makes of some steps and tokens beyond SFT.

The number of tasks, rounds or optimizer steps follows from how long SFT's episodes and the
demonstrations are, which is known before any method begins. It is an estimate: episodes get shorter
or longer while a method learns. What trains on files or pairs gets its tokens exactly, by
`train_tokens`; what plays while it learns gets the fewer of the two.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from eto_gym.errors import DataError
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trajectories import TrajectoryStore


class Budget(NamedTuple):
    """What each method may spend beyond SFT; 0: what its preset says."""

    env_steps: int
    tokens: int


class Lengths(NamedTuple):
    """Mean steps of an episode of SFT's policy and of a demonstration, and tokens per step."""

    episode: float
    expert: float
    tokens: float


def lengths_of(run: Path) -> Lengths:
    """Return the lengths that the SFT row of a run folder found.

    Raises:
        DataError: There is none.
    """
    try:
        report = json.loads((run / "report.json").read_text("utf-8"))
        keys = {stage["name"]: f"{stage['name']}-{stage['key']}" for stage in report["stages"]}
        played = _steps(run / "stages" / keys["eval-sft"] / TRAJECTORIES)
        shown = _steps(run / "stages" / keys["experts"] / TRAJECTORIES)
        training = run / "stages" / keys["sft"] / "model" / "training.json"
        data = json.loads(training.read_text("utf-8"))["data"]
    except (OSError, ValueError, KeyError) as err:
        raise DataError(f"{run} holds no finished SFT to tell budgets by ({err!r})") from err
    return Lengths(played, shown, data["tokens"] / data["rows"] / shown)


def _steps(path: Path) -> float:
    lengths = [len(t.steps) for t in TrajectoryStore(path).load() if t.steps]
    return sum(lengths) / len(lengths)


def within(budget: Budget, loop: str, settings: Any, lengths: Lengths) -> Any:
    """Return a method's settings with sizes that spend the budget.

    Args:
        budget: What may be spent.
        loop: Name of the method's command.
        settings: Its settings.
        lengths: How long episodes are.
    """
    iterations = max(1, getattr(settings, "iterations", 1))
    share = Budget(budget.env_steps // iterations, budget.tokens // iterations)
    changes = _SIZES[loop](share, settings, lengths)
    return dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})


def _pairs(part: str, *, steps: bool, episodes: bool) -> Callable[..., dict[str, Any]]:
    """Return what sizes a method that explores and then trains on pairs."""

    def sizes(budget: Budget, settings: Any, lengths: Lengths) -> dict[str, Any]:
        found: dict[str, Any] = {}
        each = budget.env_steps / (steps + episodes)
        if each and episodes:
            found["explore_tasks"] = _whole(each / lengths.episode / settings.explore_samples)
        if each and steps:
            cost = sum(
                _cost_of_steps(getattr(settings, name), lengths)
                for name in ("steps", "groups")
                if hasattr(settings, name)
            )
            tasks = _whole(each / cost)
            name = "step_tasks" if hasattr(settings, "step_tasks") else "explore_tasks"
            found[name] = min(tasks, settings.train_tasks or tasks)
        if budget.tokens:
            trained = getattr(settings, part)
            found[part] = dataclasses.replace(trained, train_tokens=budget.tokens)
        return found

    return sizes


def _cost_of_steps(steps: Any, lengths: Lengths) -> float:
    """Return the steps in the environment that one demonstration costs to explore."""
    moments = lengths.expert / int(steps.size)
    if steps.reward == "exact":
        return lengths.expert * (1 + int(steps.alternatives))
    ahead = max(lengths.episode - lengths.expert / 2, lengths.expert / 2)
    # From every moment, and again after every alternative, less the episode that found it.
    rollouts, alternatives = int(steps.rollouts), int(steps.alternatives)
    return moments * ahead * (rollouts + alternatives * (rollouts - 1))


def _rft(budget: Budget, settings: Any, lengths: Lengths) -> dict[str, Any]:
    tasks = budget.env_steps / lengths.episode / settings.explore_samples
    found: dict[str, Any] = {"explore_tasks": _whole(tasks)} if budget.env_steps else {}
    if budget.tokens:  # too few to begin with the model before SFT again
        found |= {"later_tokens": budget.tokens, "start_from": "current"}
    return found


def _early_experience(budget: Budget, settings: Any, lengths: Lengths) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if budget.env_steps:
        # At most: a reply that says what was tried is not played.
        tasks = _whole(budget.env_steps / (lengths.expert * settings.experience.tries))
        found["explore_tasks"] = min(tasks, settings.train_tasks or tasks)
    if budget.tokens:  # the fine-tuning that follows is SFT's own, which counts for no method
        found["world"] = dataclasses.replace(settings.world, train_tokens=budget.tokens)
    return found


def _group(budget: Budget, settings: Any, lengths: Lengths) -> dict[str, Any]:
    group = settings.group
    steps = _rounds(budget, lengths, group.batch_size, 1.0, group.max_steps)
    return {"group": dataclasses.replace(group, max_steps=steps)}


def _ppo(budget: Budget, settings: Any, lengths: Lengths) -> dict[str, Any]:
    ppo = settings.ppo
    rounds = _rounds(budget, lengths, ppo.episodes, ppo.epochs, ppo.rounds)
    return {"ppo": dataclasses.replace(ppo, rounds=rounds)}


def _rounds(budget: Budget, lengths: Lengths, episodes: int, passes: float, otherwise: int) -> int:
    """Return how many rounds of some episodes each, trained on so often, the budget allows."""
    steps = episodes * lengths.episode
    allowed = []
    if budget.env_steps:
        allowed.append(budget.env_steps / steps)
    if budget.tokens:
        allowed.append(budget.tokens / (steps * lengths.tokens * passes))
    return _whole(min(allowed)) if allowed else otherwise


def _whole(number: float) -> int:
    return max(1, round(number))


_SIZES: dict[str, Callable[[Budget, Any, Lengths], dict[str, Any]]] = {
    "eto": _pairs("dpo", steps=False, episodes=True),
    "rft": _rft,
    "step-dpo": _pairs("dpo", steps=True, episodes=False),
    "mixture": _pairs("mixture", steps=True, episodes=True),
    "hpl": _pairs("mixture", steps=True, episodes=True),
    "early-experience": _early_experience,
    "grpo": _group,
    "ppo": _ppo,
}
