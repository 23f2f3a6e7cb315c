"""Credit for the turns of a round of episodes, from what the simulator knows of its states.

Pure functions over rounds: episodes of tasks, each with its reward and, for every turn, the marks
of the state before it. What comes out is one advantage for every turn. docs/methods/advantages.md
has the equations.

Sources: GRPO, Shao et al. 2024 (https://arxiv.org/abs/2402.03300); GiGPO, Feng et al. 2025
(https://arxiv.org/abs/2505.10978); differences of exact costs to go added to the group's advantage:
CAST (https://arxiv.org/abs/2607.25308); milestones: BEACON (https://arxiv.org/abs/2605.06078).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev

from eto_gym.conversation import ConversationEnv
from eto_gym.env import text_env
from eto_gym.trajectories import Trajectory

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Mark:
    """What the simulator says of a state: name, steps to success, share of sub-goals reached."""

    key: str
    left: int | None
    reached: float


@dataclass(frozen=True, slots=True)
class Play:
    """An episode as credit sees it.

    Attributes:
        group: Episodes with one group are compared: those of one task.
        reward: What the episode earned; None: it is not scored, and counts for nothing.
        rewards: The same turn by turn.
        marks: State before every turn, and after the last one; empty where they were not asked for.
    """

    group: str
    reward: float | None
    rewards: tuple[float, ...]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Credit:
    """What the turns of a round are credited with.

    Attributes:
        advantages: Of every turn of every episode; zeros for one that counts for nothing.
        dropped: Groups whose episodes all earned the same, so that nothing is to be learnt.
        kept: Groups that something is learnt from.
        known: Share of the turns with an advantage of their own beside the episode's.
    """

    advantages: list[list[float]]
    dropped: int
    kept: int
    known: float


def assign(
    plays: Sequence[Play],
    method: str,
    *,
    weight: float = 1.0,
    discount: float = 0.95,
    scaled: bool = True,
) -> Credit:
    """Return the advantage of every turn of a round.

    Args:
        plays: The round's episodes.
        method: "episode", "gigpo", "cost-to-go" or "milestones".
        weight: What a turn's own advantage counts beside its episode's.
        discount: Per turn, of the rewards that follow, for "gigpo" and "milestones".
        scaled: Divide by the deviation within a group, as GRPO does.
    """
    groups = _grouped(plays)
    whole = [0.0] * len(plays)
    dropped = 0
    for members in groups.values():
        rewards = [_reward(plays[i]) for i in members]
        if pstdev(rewards) < _EPSILON:
            dropped += 1
            continue
        for i, value in zip(members, _compared(rewards, scaled=scaled), strict=True):
            whole[i] = value
    own = own_credit(plays, method, discount=discount, scaled=scaled)
    advantages = [
        [
            whole[i] + weight * own.get((i, t), 0.0) if play.reward is not None else 0.0
            for t in range(len(play.rewards))
        ]
        for i, play in enumerate(plays)
    ]
    turns = sum(len(play.rewards) for play in plays)
    return Credit(advantages, dropped, len(groups) - dropped, len(own) / max(1, turns))


def own_credit(
    plays: Sequence[Play], method: str, *, discount: float = 0.95, scaled: bool = True
) -> dict[tuple[int, int], float]:
    """Return (episode, turn) -> what the turn is credited with of its own, where that is known.

    The arguments are those of `assign`; for "episode" and "turn" there is nothing.
    """
    if method == "gigpo":
        return _by_states(plays, _grouped(plays), discount, scaled=scaled)
    if method == "cost-to-go":
        return _by_costs(plays)
    if method == "milestones":
        return _by_milestones(plays, _grouped(plays), discount, scaled=scaled)
    return {}


def mark_states(env: ConversationEnv, trajectory: Trajectory, method: str) -> tuple[Mark, ...]:
    """Repeat an episode's replies, and note each state on its way; none where it goes otherwise.

    Costs one step of the environment per turn, and what the marks cost that the method reads.
    """
    replies = trajectory.replies
    env.reset(options={"task": trajectory.task_id})
    marks = [_mark(env, method)]
    earned = 0.0
    for reply in replies:
        _, reward, terminated, truncated, _ = env.step(reply.content)
        earned += reward
        marks.append(_mark(env, method))
        if terminated or truncated:
            break
    same = len(marks) == len(replies) + 1 and abs(earned - trajectory.reward) < _EPSILON
    return tuple(marks) if same else ()


def horizon(step: int, *, first: int, growth: float, most: int | None) -> int | None:
    """Return the most turns of an episode at an optimizer step; None: as many as ever.

    Args:
        step: Optimizer steps so far.
        first: Turns at the beginning; 0: as many as ever.
        growth: Turns that each optimizer step adds.
        most: The environment's own limit.
    """
    turns = first + int(step * growth)
    return None if not first or (most is not None and turns >= most) else turns


def _mark(env: ConversationEnv, method: str) -> Mark:
    inner = text_env(env)
    return Mark(
        inner.state_key() if method == "gigpo" else "",
        inner.cost_to_go() if method == "cost-to-go" else None,
        inner.milestones() if method == "milestones" else 0.0,
    )


def _grouped(plays: Sequence[Play]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i, play in enumerate(plays):
        if play.reward is not None:
            groups[play.group].append(i)
    return dict(groups)


def _reward(play: Play) -> float:
    assert play.reward is not None  # only episodes that ran are grouped
    return play.reward


def _compared(values: Sequence[float], *, scaled: bool) -> list[float]:
    """Return how far each is above the mean, in deviations if `scaled`."""
    mean, deviation = fmean(values), pstdev(values) if scaled else 1.0
    return [(value - mean) / (deviation + _EPSILON) for value in values]


def _returns(rewards: Sequence[float], discount: float) -> list[float]:
    """Return what each turn and those after it earn, discounted per turn."""
    found, after = [], 0.0
    for reward in reversed(rewards):
        after = reward + discount * after
        found.append(after)
    return found[::-1]


def _by_states(
    plays: Sequence[Play], groups: dict[str, list[int]], discount: float, *, scaled: bool
) -> dict[tuple[int, int], float]:
    """Compare the returns of turns that were taken in one and the same state of a task."""
    found: dict[tuple[int, int], float] = {}
    for members in groups.values():
        states: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
        for i in members:
            returns = _returns(plays[i].rewards, discount)
            for t, (mark, value) in enumerate(zip(plays[i].marks[:-1], returns, strict=False)):
                states[mark.key].append((i, t, value))
        for taken in states.values():
            if len(taken) > 1:
                values = _compared([value for *_, value in taken], scaled=scaled)
                found |= {(i, t): v for (i, t, _), v in zip(taken, values, strict=True)}
    return found


def _by_costs(plays: Sequence[Play]) -> dict[tuple[int, int], float]:
    """Credit a turn with the steps that it saved: asinh of them, over the round's RMS.

    A turn that costs no more than its step saves 0, one that success is nearer by saves 1 or more.
    """
    saved: dict[tuple[int, int], float] = {}
    for i, play in enumerate(plays):
        if play.reward is None:
            continue
        for t in range(min(len(play.rewards), len(play.marks) - 1)):
            before, after = play.marks[t].left, play.marks[t + 1].left
            if before is not None and after is not None:
                saved[i, t] = math.asinh(float(before - after))
    size = math.sqrt(fmean([value**2 for value in saved.values()])) if saved else 0.0
    return {place: value / (size + _EPSILON) for place, value in saved.items()}


def _by_milestones(
    plays: Sequence[Play], groups: dict[str, list[int]], discount: float, *, scaled: bool
) -> dict[tuple[int, int], float]:
    """Compare a turn's discounted progress with that of all turns of its task's episodes."""
    found: dict[tuple[int, int], float] = {}
    for members in groups.values():
        places: list[tuple[int, int]] = []
        values: list[float] = []
        for i in members:
            marks = plays[i].marks
            steps = [after.reached - before.reached for before, after in pairwise(marks)]
            ahead = _returns(steps[: len(plays[i].rewards)], discount)
            places += [(i, t) for t in range(len(ahead))]
            values += ahead
        if len(values) > 1 and pstdev(values) > _EPSILON:
            found |= dict(zip(places, _compared(values, scaled=scaled), strict=True))
    return found
