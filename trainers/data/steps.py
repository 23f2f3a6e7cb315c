"""Step-level pairs: at one moment of an episode, a better next step against a worse one.

A step is worth what episodes earn on average that go on from it (Monte-Carlo value). The moments
are those of the experts' episodes: the environment is put back to each of them by a snapshot, and
the agent plays on from there. A step may be several replies in a row: an action group.

Sources: Xiong et al., "Watch Every Step! LLM Agent Learning via Iterative Step-Level Process
Refinement" (IPR), EMNLP 2024 (https://arxiv.org/abs/2406.11176); groups: Gao et al., "Hierarchical
Preference Learning for Long-Horizon LLM Agents" (HPL), 2025 (https://arxiv.org/abs/2510.03253).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from eto_gym.agents.rollout.engine import Episode, plan_episodes
from eto_gym.conversation import ConversationEnv
from eto_gym.history import FULL
from eto_gym.prompt import Message
from eto_gym.snapshot import get_state, set_state
from eto_gym.trainers.settings.data import StepSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair


@dataclass(slots=True)
class StepReport:
    """What became of every step.

    Attributes:
        experts: Experts' episodes that could be repeated.
        not_repeated: Those that the environment answered otherwise than when they were recorded.
        steps: Steps of the experts, or groups of them.
        asked: Replies that were asked for ('exact'), or episodes that were played.
        errors: Kind of error -> those of them that came to nothing by it.
        alternatives: Other actions that were valued.
        pairs: Number of pairs.
        expert_chosen: Pairs whose chosen side is the expert's.
        agent_chosen: Pairs whose chosen side is the agent's.
        skipped: Reason -> candidates without a pair: "below_threshold" (worth about as much as the
            best), "no_value" (none of its episodes counts), "same_outcome" ('rest': the
            better step's best episode earned no more than the worse step's worst).
    """

    experts: int = 0
    not_repeated: int = 0
    steps: int = 0
    asked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    alternatives: int = 0
    pairs: int = 0
    expert_chosen: int = 0
    agent_chosen: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        return counted(self)


@dataclass(frozen=True, slots=True)
class ExpertPath:
    """An expert's episode, repeated in the environment.

    Attributes:
        task_id: Its task.
        messages: The conversation, as the environment gave it now.
        turns: Index in `messages` of every reply.
        actions: Action of every reply.
        states: Snapshot before every reply.
        reward: What the episode earned.
        history: How much of the conversation each reply is given to.
        blocks: The state block that is read for every reply, if any.
    """

    task_id: str
    messages: tuple[Message, ...]
    turns: tuple[int, ...]
    actions: tuple[str | None, ...]
    states: tuple[dict[str, Any], ...]
    reward: float
    history: str = FULL
    blocks: tuple[str, ...] = ()


def counted(report: Any) -> dict[str, Any]:
    """Return the fields of a report, its counters as plain dicts."""
    values = {item.name: getattr(report, item.name) for item in fields(report)}
    return {k: dict(v) if isinstance(v, Counter) else v for k, v in values.items()}


class Alternative(NamedTuple):
    """Another action at a step of an expert: the first episode that took it, and its reply."""

    path: ExpertPath
    step: int
    first: Trajectory


def repeat_expert(env: ConversationEnv, expert: Trajectory) -> ExpertPath | None:
    """Repeat an expert's replies, taking a snapshot before each; its marks stay on them.

    Returns:
        The path; None where the environment no longer does what it did: the number of steps or the
        reward differs.
    """
    replies = expert.replies
    env.reset(options={"task": expert.task_id})
    states, turns, reward, ended = [], [], 0.0, False
    for reply in replies:
        if ended:
            return None
        turns.append(len(env.conversation))
        states.append(get_state(env))
        _, earned, terminated, truncated, _ = env.step(reply.content)
        reward += earned
        ended = terminated or truncated
    if not states or abs(reward - expert.reward) > 1e-6:
        return None
    messages = list(env.conversation)
    for turn, reply in zip(turns, replies, strict=True):
        messages[turn] = Message("assistant", messages[turn].content, reply.train)
    return ExpertPath(
        expert.task_id,
        tuple(messages),
        tuple(turns),
        tuple(step.action for step in env.steps),
        tuple(states),
        reward,
        env.history,
        env.states,
    )


def plan_branches(
    paths: Iterable[ExpertPath], settings: StepSettings, *, seed: int
) -> list[Episode]:
    """List the episodes that leave each path before each of its steps, or groups of steps.

    Sample `n` of a task leaves before step `n // settings.rollouts`.
    """
    return [
        replace(episode, state=path.states[episode.sample // settings.rollouts])
        for path in paths
        for episode in plan_episodes(
            [path.task_id], samples=len(path.states) * settings.rollouts, seed=seed
        )
        if episode.sample // settings.rollouts % settings.size == 0
    ]


def find_alternatives(
    paths: Iterable[ExpertPath], branches: Iterable[Trajectory], settings: StepSettings
) -> list[Alternative]:
    """Return the first other actions that the agent took at each step."""
    groups = _group(branches, settings)
    found = []
    for path in paths:
        for step in range(0, len(path.actions), settings.size):
            end = step + settings.size
            known = {path.actions[step:end]}
            for trajectory in groups[path.task_id, step]:
                taken = tuple(done.action for done in trajectory.steps[step:end])
                new = bool(taken) and taken not in known  # () where no reply had room
                if new and len(known) <= settings.alternatives:
                    known.add(taken)
                    found.append(Alternative(path, step, trajectory))
    return found


def plan_values(
    env: ConversationEnv,
    alternatives: Iterable[Alternative],
    settings: StepSettings,
    *,
    seed: int,
) -> list[Episode]:
    """List the episodes that play on after each alternative.

    The episode that found the alternative is one of its `settings.rollouts`; the others are listed
    here, in order of alternatives: sample `n` of a task belongs to the task's alternative
    `n // (settings.rollouts - 1)`. An alternative that ends the episode needs none.
    """
    counts: Counter[str] = Counter()
    episodes = []
    more = settings.rollouts - 1
    for path, step, first in alternatives:
        number = counts[path.task_id]
        counts[path.task_id] += 1
        if step + settings.size >= len(first.steps) or not more:
            continue
        set_state(env, path.states[step])
        start = path.turns[step]
        for message in first.messages[start : start + 2 * settings.size : 2]:
            env.step(message.content)
        state = get_state(env)
        planned = plan_episodes([path.task_id], samples=(number + 1) * more, seed=seed + 1)
        episodes += [replace(episode, state=state) for episode in planned[-more:]]
    return episodes


class Candidate(NamedTuple):
    """A step that could be taken, what it is worth, and how it goes on (with the state blocks)."""

    value: float
    by_expert: bool
    best: Rest
    best_reward: float
    worst: Rest
    worst_reward: float


class Rest(NamedTuple):
    """An episode from a step on: its messages, and the state block read for each reply, if any."""

    messages: tuple[Message, ...]
    blocks: tuple[str, ...]


def make_step_pairs(
    paths: Sequence[ExpertPath],
    branches: Iterable[Trajectory],
    values: Iterable[Trajectory],
    settings: StepSettings,
) -> tuple[list[PreferencePair], StepReport]:
    """Pair, at every step, the most valuable candidate with each that is worth less.

    Candidates are the expert's step and the agent's alternatives. The expert's step is worth what
    the branches earn that leave after it, or, for the last one, what the expert earned.

    Args:
        paths: The experts' episodes.
        branches: What `plan_branches` planned, as played.
        values: What `plan_values` planned, as played.
        settings: The settings of both plans.

    Returns:
        The pairs, in the order of tasks and steps, and the report.
    """
    report = StepReport(experts=len(paths))
    offered, followed = list(branches), list(values)
    report.asked = len(offered) + len(followed)
    report.errors.update(t.error for t in (*offered, *followed) if t.error is not None)
    groups = _group(offered, settings)
    alternatives = find_alternatives(paths, offered, settings)
    report.alternatives = len(alternatives)
    later: dict[tuple[str, int], list[Trajectory]] = defaultdict(list)
    for trajectory in followed:
        number = trajectory.sample // max(1, settings.rollouts - 1)
        later[trajectory.task_id, number].append(trajectory)
    tried: dict[tuple[str, int], list[Candidate | None]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for path, step, first in alternatives:
        played = [first, *later[path.task_id, counts[path.task_id]]]
        counts[path.task_id] += 1
        tried[path.task_id, step].append(_of_agent(path, step, played, settings))
    pairs: list[PreferencePair] = []
    for path in paths:
        for step in range(0, len(path.states), settings.size):
            report.steps += 1
            others = tried[path.task_id, step]
            if not others:
                continue
            expert = _of_expert(path, step, groups, settings)
            pairs += pairs_of_step(path, step, expert, others, settings, report)
    report.pairs = len(pairs)
    return pairs, report


def pairs_of_step(
    path: ExpertPath,
    step: int,
    expert: Candidate | None,
    others: Sequence[Candidate | None],
    settings: StepSettings,
    report: StepReport,
) -> Iterable[PreferencePair]:
    """Yield a pair of the best candidate of a step with each that is worth less."""
    known = [candidate for candidate in (expert, *others) if candidate is not None]
    if missing := len(others) + 1 - len(known):
        report.skipped["no_value"] += missing
    if len(known) < 2:
        return
    best = max(known, key=lambda candidate: (candidate.value, candidate.by_expert))
    for worse in known:
        if worse is best:
            continue
        if best.value - worse.value <= settings.threshold:
            report.skipped["below_threshold"] += 1
            continue
        if settings.extent == "rest" and best.best_reward <= worse.worst_reward:
            report.skipped["same_outcome"] += 1
            continue
        report.expert_chosen += best.by_expert
        report.agent_chosen += not best.by_expert
        yield PreferencePair(
            task_id=path.task_id,
            prompt=tuple(Message(m.role, m.content) for m in path.messages[: path.turns[step]]),
            chosen=best.best.messages,
            rejected=worse.worst.messages,
            info={
                "step": step,
                "chosen_value": best.value,
                "rejected_value": worse.value,
                "chosen_policy": "expert" if best.by_expert else "agent",
                "rejected_policy": "expert" if worse.by_expert else "agent",
            },
            **_how_read(path, best.best, worse.worst),
        )


def _how_read(path: ExpertPath, chosen: Rest, rejected: Rest) -> dict[str, Any]:
    if path.history == FULL:
        return {}
    return {
        "history": path.history,
        "head": path.turns[0] - 1,
        "chosen_states": chosen.blocks,
        "rejected_states": rejected.blocks,
    }


def _of_expert(
    path: ExpertPath,
    step: int,
    groups: dict[tuple[str, int], list[Trajectory]],
    settings: StepSettings,
) -> Candidate | None:
    after = step + settings.size
    if after >= len(path.states):
        rewards = [path.reward]
    else:
        rewards = [trajectory.reward for trajectory in groups[path.task_id, after]]
    if not rewards:
        return None
    rest = _from_step(path, step, path.messages, path.blocks, settings)
    value = sum(rewards) / len(rewards)
    return Candidate(value, True, rest, path.reward, rest, path.reward)


def _of_agent(
    path: ExpertPath, step: int, played: Iterable[Trajectory], settings: StepSettings
) -> Candidate | None:
    scored = [trajectory for trajectory in played if trajectory.scored]
    if not scored:
        return None
    best = max(scored, key=lambda trajectory: trajectory.reward)
    worst = min(scored, key=lambda trajectory: trajectory.reward)
    return Candidate(
        sum(trajectory.reward for trajectory in scored) / len(scored),
        False,
        _from_step(path, step, best.messages, best.states, settings),
        best.reward,
        _from_step(path, step, worst.messages, worst.states, settings),
        worst.reward,
    )


def _from_step(
    path: ExpertPath,
    step: int,
    messages: Sequence[Message],
    blocks: Sequence[str],
    settings: StepSettings,
) -> Rest:
    start = path.turns[step]
    if settings.extent == "step":
        end = start + 2 * settings.size - 1  # replies, and the observations between them
        return Rest(tuple(messages[start:end]), tuple(blocks[step : step + settings.size]))
    return Rest(tuple(messages[start:]), tuple(blocks[step:]))


def _group(
    branches: Iterable[Trajectory], settings: StepSettings
) -> dict[tuple[str, int], list[Trajectory]]:
    """Group the branches that count by task and by the step before which they leave."""
    groups: dict[tuple[str, int], list[Trajectory]] = defaultdict(list)
    for trajectory in branches:
        if trajectory.scored:
            groups[trajectory.task_id, trajectory.sample // settings.rollouts].append(trajectory)
    return groups
