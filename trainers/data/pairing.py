"""Preference pairs from trajectories: which side is chosen, and what is never paired."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eto_gym.conversation import parse_reply
from eto_gym.history import FULL
from eto_gym.prompt import Message
from eto_gym.trainers.data.first_error import Errors
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair


@dataclass(slots=True)
class PairingReport:
    """What became of every trajectory that was offered.

    Attributes:
        trajectories: The agent's trajectories.
        pairs: Number of pairs.
        expert_chosen: Pairs whose chosen side is the expert's.
        agent_chosen: Pairs whose chosen side is the agent's.
        cut_length: Pairs whose rejected side was cut for its length.
        cut_divergence: Pairs whose rejected side was cut after the first divergence.
        cut_error: Pairs, and failures by themselves, that were cut after their error.
        unknown_error: Those that were to be, and whose error is not known.
        unpaired: Successes and failures that stand by themselves, among `pairs`.
        skipped: Reason -> how often nothing was paired for it: "agent_error", "expert_error",
            "no_expert", "tie", "identical" (both sides say the same, after any cut), "duplicate"
            (the same pair again), "different_prompt", "different_history" (one side was played
            with another history setting), "nothing_trained" (a side without a turn
            marked for training), "single_sample" ('self' with fewer than two usable samples),
            "over_task_limit", and "nothing_earned" ('unpaired': an expert's episode).
    """

    trajectories: int = 0
    pairs: int = 0
    expert_chosen: int = 0
    agent_chosen: int = 0
    cut_length: int = 0
    cut_divergence: int = 0
    cut_error: int = 0
    unknown_error: int = 0
    unpaired: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class _Side(NamedTuple):
    """One trajectory, split where the agent's own turns begin; a state block for each turn."""

    source: Trajectory
    prompt: tuple[Message, ...]
    turns: tuple[Message, ...]
    states: tuple[str, ...] = ()


def make_pairs(
    agent: Iterable[Trajectory],
    expert: Iterable[Trajectory] = (),
    settings: PairingSettings | None = None,
    *,
    errors: Mapping[tuple[str, int], Errors | None] | None = None,
) -> tuple[list[PreferencePair], PairingReport]:
    """Pair trajectories of the same task whose rewards differ.

    With the contrast "expert" every sample of the agent meets the expert's trajectory of its task
    (the best one where there are several): the side with the higher reward is chosen. With "self"
    the agent's best sample meets its worst, then the second best the second worst, up to
    `max_pairs_per_task`; among equal rewards the shorter sample counts as better. With "unpaired"
    nothing is paired: of each distinct episode there is a "pair" with one side, the chosen one of
    the experts' and the agent's successes, and the rejected one of failures.

    Args:
        agent: The agent's trajectories, any number of samples per task.
        expert: The expert's trajectories; not looked at for "self".
        settings: How to pair; the paper's way by default.
        errors: Where failures left the path (`find_errors`), for `cut`.

    Returns:
        The pairs, in the order in which their tasks first appear, and the report.

    Raises:
        SettingsError: The contrast is "correction" (see `correct_failures`), or errors are to be
            cut at and none are given.
    """
    settings = settings or PairingSettings()
    cuts = _cuts(settings, errors)
    agent = list(agent)
    report = PairingReport(trajectories=len(agent))
    samples = _by_task(agent, "agent_error", report)
    if settings.contrast == "unpaired":
        return _alone(samples, expert, cuts, report), report
    if settings.contrast == "self":
        candidates = _self_candidates(samples, settings, report)
    else:
        candidates = _expert_candidates(samples, expert, settings, report)
    pairs: list[PreferencePair] = []
    seen: set[tuple[str, tuple[Message, ...], tuple[Message, ...]]] = set()
    per_task: Counter[str] = Counter()
    limit = settings.max_pairs_per_task
    for chosen, rejected, agent_won in candidates:
        theirs = agent_won and settings.contrast == "expert"
        own_cuts = {} if theirs else cuts  # an expert's errors are not looked for
        pair = _pair(chosen, rejected, settings, own_cuts, report)
        if pair is None:
            continue
        if limit is not None and per_task[pair.task_id] >= limit:
            report.skipped["over_task_limit"] += 1
            continue
        key = (pair.task_id, pair.chosen, pair.rejected)
        if key in seen:
            report.skipped["duplicate"] += 1
            continue
        seen.add(key)
        per_task[pair.task_id] += 1
        pairs.append(pair)
        report.agent_chosen += agent_won
        report.expert_chosen += not agent_won
        report.cut_length += pair.info["cut"] == "length"
        report.cut_divergence += pair.info["cut"] == "divergence"
        report.cut_error += pair.info["cut"] == "error"
        report.unknown_error += own_cuts.get(rejected.source.key, 0) is None
    report.pairs = len(pairs)
    return pairs, report


def _cuts(
    settings: PairingSettings, errors: Mapping[tuple[str, int], Errors | None] | None
) -> dict[tuple[str, int], int | None]:
    """Return the error of each failure at which it is to be cut; refuse what is for loops."""
    if settings.cut != "none" and errors is None:
        raise SettingsError(
            f"cut {settings.cut!r} asks the environment: it is for loops, such as "
            "`eto-gym train eto`; in Python give `errors`"
        )
    if settings.contrast == "correction":
        raise SettingsError(
            "contrast 'correction' asks the expert in the environment: it is for loops, such as "
            "`eto-gym train eto`; trajectories alone can be paired by 'expert' or 'self'"
        )
    which = 0 if settings.cut == "first-error" else 1
    known = errors if errors is not None and settings.cut != "none" else {}
    return {key: None if found is None else found[which] for key, found in known.items()}


def _alone(
    samples: dict[str, list[_Side]],
    expert: Iterable[Trajectory],
    cuts: Mapping[tuple[str, int], int | None],
    report: PairingReport,
) -> list[PreferencePair]:
    """Return each distinct episode as a side by itself: successes chosen, failures rejected."""
    experts = _by_task(expert, "expert_error", report)
    pairs: list[PreferencePair] = []
    seen: set[tuple[str, tuple[Message, ...]]] = set()
    sides = [(side, True) for part in experts.values() for side in part]
    sides += [(side, False) for part in samples.values() for side in part]
    for side, by_expert in sides:
        if by_expert and side.source.reward <= 0:
            report.skipped["nothing_earned"] += 1
            continue
        good = by_expert or side.source.success
        cut = None if good else _cut_at(side, cuts)
        limit = _rounds(side.turns) if cut is None else cut
        turns = _first_rounds(side.turns, limit)
        if (side.source.task_id, turns) in seen:
            report.skipped["duplicate"] += 1
            continue
        seen.add((side.source.task_id, turns))
        report.expert_chosen += by_expert
        report.agent_chosen += good and not by_expert
        report.cut_error += cut is not None
        report.unknown_error += not good and cuts.get(side.source.key, 0) is None
        pairs.append(_single(side, turns, good=good))
    report.pairs = report.unpaired = len(pairs)
    return pairs


def _single(side: _Side, turns: tuple[Message, ...], *, good: bool) -> PreferencePair:
    name = "chosen" if good else "rejected"
    history = side.source.history
    read: dict[str, Any] = {}
    if history != FULL:
        states = side.states[: _rounds(turns)]
        read = {"history": history, "head": side.source.head, f"{name}_states": states}
    return PreferencePair(
        task_id=side.source.task_id,
        prompt=side.prompt,
        chosen=turns if good else (),
        rejected=() if good else turns,
        info={
            "contrast": "unpaired",
            f"{name}_policy": side.source.policy,
            f"{name}_reward": side.source.reward,
            f"{name}_sample": side.source.sample,
        },
        **read,
    )


def _cut_at(side: _Side, cuts: Mapping[tuple[str, int], int | None]) -> int | None:
    """Return the rounds of a failure up to its error, where that is known and not the last."""
    error = cuts.get(side.source.key)
    if error is None:
        return None
    rounds = _rounds(side.turns)
    kept = error + 1 - (len(side.source.steps) - rounds)  # untrained replies may precede
    return kept if 0 < kept < rounds else None


_Candidate = tuple[_Side, _Side, bool]
"""The chosen side, the rejected side, and whether the chosen one is the agent's."""


def _expert_candidates(
    samples: dict[str, list[_Side]],
    expert: Iterable[Trajectory],
    settings: PairingSettings,
    report: PairingReport,
) -> Iterable[_Candidate]:
    experts: dict[str, _Side] = {}
    for task_id, sides in _by_task(expert, "expert_error", report).items():
        experts[task_id] = max(sides, key=lambda side: side.source.reward)
    for task_id, sides in samples.items():
        best = experts.get(task_id)
        if best is None:
            report.skipped["no_expert"] += len(sides)
            continue
        for side in sides:
            gap = side.source.reward - best.source.reward
            if abs(gap) <= settings.min_gap:
                report.skipped["tie"] += 1
            elif gap > 0:
                yield side, best, True
            else:
                yield best, side, False


def _self_candidates(
    samples: dict[str, list[_Side]], settings: PairingSettings, report: PairingReport
) -> Iterable[_Candidate]:
    for sides in samples.values():
        if len(sides) < 2:
            report.skipped["single_sample"] += 1
            continue
        ranked = sorted(sides, key=lambda side: (-side.source.reward, _rounds(side.turns)))
        for rank in range(min(settings.max_pairs_per_task or 1, len(ranked) // 2)):
            best, worst = ranked[rank], ranked[-1 - rank]
            if best.source.reward - worst.source.reward <= settings.min_gap:
                report.skipped["tie"] += 1
                break
            yield best, worst, True


def _by_task(
    trajectories: Iterable[Trajectory], error_reason: str, report: PairingReport
) -> dict[str, list[_Side]]:
    tasks: dict[str, list[_Side]] = defaultdict(list)
    for trajectory in trajectories:
        if not trajectory.scored:
            report.skipped[error_reason] += 1
            continue
        side = _split(trajectory)
        if side is None:
            report.skipped["nothing_trained"] += 1
            continue
        tasks[trajectory.task_id].append(side)
    return tasks


def _split(trajectory: Trajectory) -> _Side | None:
    messages = trajectory.messages
    for start, message in enumerate(messages):
        if message.role == "assistant" and message.train:
            turns = _ending_in_a_turn(messages[start:])
            states = trajectory.states
            if states:  # one per step; those of earlier, untrained replies are not wanted
                first = (start - trajectory.head) // 2
                states = states[first : first + _rounds(turns)]
            return _Side(trajectory, messages[:start], turns, states)
    return None


def _pair(
    chosen: _Side,
    rejected: _Side,
    settings: PairingSettings,
    cuts: Mapping[tuple[str, int], int | None],
    report: PairingReport,
) -> PreferencePair | None:
    history = chosen.source.history
    if rejected.source.history != history:
        report.skipped["different_history"] += 1
        return None
    if _texts(chosen.prompt) != _texts(rejected.prompt):
        report.skipped["different_prompt"] += 1
        return None
    rounds = _rounds(rejected.turns)
    limit, cut = rounds, None
    if settings.max_extra_rounds is not None:
        most = _rounds(chosen.turns) + settings.max_extra_rounds
        if most < limit:
            limit, cut = most, "length"
    divergence = _divergence(chosen.turns, rejected.turns)
    if settings.cut_after_divergence is not None and divergence is not None:
        most = divergence + 1 + settings.cut_after_divergence
        if most < limit:
            limit, cut = most, "divergence"
    most_right = _cut_at(rejected, cuts)
    if most_right is not None and most_right < limit:
        limit, cut = most_right, "error"
    turns = _first_rounds(rejected.turns, limit)
    if _texts(turns) == _texts(chosen.turns):
        report.skipped["identical"] += 1
        return None
    return PreferencePair(
        task_id=chosen.source.task_id,
        prompt=chosen.prompt,
        chosen=chosen.turns,
        rejected=turns,
        info={
            "contrast": settings.contrast,
            "chosen_policy": chosen.source.policy,
            "rejected_policy": rejected.source.policy,
            "chosen_reward": chosen.source.reward,
            "rejected_reward": rejected.source.reward,
            "chosen_sample": chosen.source.sample,
            "rejected_sample": rejected.source.sample,
            "chosen_rounds": _rounds(chosen.turns),
            "rejected_rounds": min(limit, rounds),
            "rejected_rounds_before_cut": rounds,
            "divergence": divergence,
            "cut": cut,
        },
        **_how_read(chosen, rejected, history, min(limit, rounds)),
    )


def _how_read(chosen: _Side, rejected: _Side, history: str, rounds: int) -> dict[str, Any]:
    if history == FULL:
        return {}
    return {
        "history": history,
        "head": chosen.source.head,
        "chosen_states": chosen.states,
        "rejected_states": rejected.states[:rounds],
    }


def _divergence(chosen: Sequence[Message], rejected: Sequence[Message]) -> int | None:
    """Round (from 0) of the first turn of `rejected` whose action differs from that in `chosen`.

    Another wording of the thought is no divergence, but a reply without an action is one. Where an
    observation differs before any turn does, it is the round of the next turn; None where
    `rejected` is a beginning of `chosen`.
    """
    turn = 0
    for index, message in enumerate(rejected):
        same = index < len(chosen) and _deed(chosen[index]) == _deed(message)
        if not same:
            return turn
        turn += message.role == "assistant"
    return None


def _first_rounds(turns: Sequence[Message], rounds: int) -> tuple[Message, ...]:
    """Return the beginning of `turns` that ends with the agent's turn number `rounds`."""
    count = 0
    for index, message in enumerate(turns):
        count += message.role == "assistant"
        if count == rounds:
            return tuple(turns[: index + 1])
    return tuple(turns)


def _ending_in_a_turn(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Drop what follows the agent's last turn: nothing is learnt from it."""
    end = len(turns)
    while end and turns[end - 1].role != "assistant":
        end -= 1
    return tuple(turns[:end])


def _rounds(turns: Iterable[Message]) -> int:
    return sum(message.role == "assistant" for message in turns)


def _deed(message: Message) -> tuple[str, str]:
    """Return the action of an assistant's turn, or else the text."""
    reply = parse_reply(message.content) if message.role == "assistant" else None
    return (message.role, reply.action if reply else message.content)


def _texts(messages: Iterable[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]
