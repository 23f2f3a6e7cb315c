"""Early experience: what other actions than the expert's lead to, as something to predict.

At each step of a demonstration the environment is put back by a snapshot, another action is played,
and what is then observed is what the model learns to say. No reward is looked at.

Source: Zhang et al., "Agent Learning via Early Experience", 2025
(https://arxiv.org/abs/2510.08558), implicit world modelling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eto_gym.agents.policy import Policy
from eto_gym.conversation import ConversationEnv, parse_reply
from eto_gym.env import text_env
from eto_gym.prompt import Message
from eto_gym.snapshot import set_state
from eto_gym.trainers.data.exact_steps import try_steps
from eto_gym.trainers.data.steps import ExpertPath, counted
from eto_gym.trainers.settings.data import ExperienceSettings, StepSettings
from eto_gym.trajectories import Trajectory

QUESTION = "What do you observe now?"
"""Asked after the action; the answer, in the assistant's turn, is the observation."""


@dataclass(slots=True)
class ExperienceReport:
    """What became of every reply that was asked for.

    Attributes:
        experts: Experts' episodes that could be repeated.
        not_repeated: Those that the environment answered otherwise than when they were recorded.
        steps: Steps of the experts.
        asked: Replies that were asked for.
        errors: Kind of error -> replies that were not given because of it.
        alternatives: Other actions that were played, each with its observation.
        skipped: Reason -> replies that were not played: "no_action" (none was found in it),
            "same_action" (the expert's, or one that was tried at this step before).
    """

    experts: int = 0
    not_repeated: int = 0
    steps: int = 0
    asked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    alternatives: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        return counted(self)


def gather_experience(
    env: ConversationEnv,
    paths: Sequence[ExpertPath],
    policy: Policy,
    settings: ExperienceSettings,
    *,
    seed: int,
) -> tuple[list[Trajectory], ExperienceReport]:
    """Play other actions at every step of the experts, and ask what was observed.

    Args:
        env: Plays the tasks as they were played, with the same history.
        paths: The experts' episodes.
        policy: Asked for other replies, `settings.tries` times at each step.
        settings: How many replies are asked for.
        seed: Seed of the policy's sampling.

    Returns:
        One conversation for each action: what was read, the reply, the question, and, as the only
        message to train on, the observation; in the order of paths, steps and tries. Each stands
        for itself, whatever the history. And the report.
    """
    report = ExperienceReport(experts=len(paths))
    asked = StepSettings(rollouts=settings.tries)
    found: list[Trajectory] = []
    for path in paths:
        tries, count, errors = try_steps(env, path, policy, asked, seed=seed, batch=64)
        report.asked += count
        report.errors += errors
        for step, state in enumerate(path.states):
            report.steps += 1
            known = {path.actions[step]}
            for (reply,) in tries[step]:
                parsed = parse_reply(reply)
                if parsed is None or parsed.action in known:
                    report.skipped["no_action" if parsed is None else "same_action"] += 1
                    continue
                known.add(parsed.action)
                set_state(env, state)
                found.append(_tried(env, path, reply, policy.name, sample=len(found)))
    report.alternatives = len(found)
    return found, report


def _tried(
    env: ConversationEnv, path: ExpertPath, reply: str, policy: str, *, sample: int
) -> Trajectory:
    read = tuple(Message(m.role, m.content) for m in env.prompt)
    observation, reward, terminated, _, info = env.step(reply)
    return Trajectory(
        task_id=path.task_id,
        task_type=str(info.get("task_type", "")),
        messages=(
            *read,
            Message("assistant", reply),
            Message("user", QUESTION),
            Message("assistant", observation, train=True),
        ),
        steps=(env.steps[-1],),
        outcome="terminated" if terminated else "truncated",
        reward=reward,
        success=False,
        policy=policy,
        env=text_env(env).card(),
        sample=sample,
    )
