"""What an agent does again and again, and gains that look like a trick instead of the task."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eto_gym.trajectories import Trajectory

WAITING = frozenset(
    {"wait", "wait1", "look", "look around", "inventory", "noop", "no op", "pass", "sleep"}
)
"""Actions that change nothing by themselves but let time pass."""

_REFUSALS = ("Nothing happens.", "No known action matches that input.")
"""What the engines answer to an action that they do not take."""

_ONE_ACTION_STEPS, _ONE_ACTION_SHARE = 5, 2 / 3
_LOOP_PERIODS, _LOOP_TIMES = (2, 3, 4), 3

ONE_ACTION = "one action repeated"
LOOP = "loop"
WAITED = "reward by waiting"


@dataclass(frozen=True, slots=True)
class Habits:
    """Counts over the replies of some episodes.

    Attributes:
        replies: Replies that became steps.
        truncated: Episodes that the step limit ended.
        cut: Replies that ended at their limit of tokens.
        unparsable: Replies in which no action was found.
        inadmissible: Actions that were not among the admissible ones, of `admissible_known`.
        admissible_known: Replies of which that is known.
        repeated: Actions equal to the one before.
        without_effect: Actions after which the environment said the same as before, or that it
            does not take the action.
    """

    replies: int
    truncated: int
    cut: int
    unparsable: int
    inadmissible: int
    admissible_known: int
    repeated: int
    without_effect: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        return asdict(self)


def habits(trajectories: Iterable[Trajectory]) -> Habits:
    """Count over the scored episodes among some."""
    counts: Counter[str] = Counter()
    for t in trajectories:
        if not t.scored:
            continue
        actions = [step.action for step in t.steps]
        admissible = [item["admissible"] for item in t.facts if "admissible" in item]
        counts["replies"] += len(actions)
        counts["truncated"] += t.outcome == "truncated"
        counts["cut"] += sum(item.get("finish") == "length" for item in t.facts)
        counts["unparsable"] += actions.count(None)
        counts["inadmissible"] += admissible.count(False)
        counts["admissible_known"] += len(admissible)
        counts["repeated"] += sum(a is not None and a == b for a, b in itertools.pairwise(actions))
        counts["without_effect"] += sum(_without_effect(t))
    return Habits(**{name: counts[name] for name in Habits.__dataclass_fields__})


def _without_effect(t: Trajectory) -> list[bool]:
    """Tell of each step whether its action had no effect that is to be seen."""
    start = t.start
    before = t.messages[start].content if start < len(t.messages) else ""
    told = []
    for step in t.steps:
        refused = step.observation.startswith(_REFUSALS)
        told.append(step.action is not None and (refused or step.observation == before))
        before = step.observation
    return told


def tricks(t: Trajectory) -> tuple[str, ...]:
    """Return what makes an episode's reward look like a trick; nothing where it earned none.

    - "one action repeated": one action makes two thirds of five or more steps.
    - "loop": two to four actions in the same order three times in a row.
    - "reward by waiting": a step that only lets time pass, or that the engine did not take, or that
      repeats the one before, was rewarded.

    None of these proves anything: water boils while one waits. They say where to look.
    """
    if not t.scored or t.reward <= 0:
        return ()
    actions = [step.action or "" for step in t.steps]
    found = []
    if actions and len(actions) >= _ONE_ACTION_STEPS:
        most = Counter(actions).most_common(1)[0][1]
        if most / len(actions) >= _ONE_ACTION_SHARE:
            found.append(ONE_ACTION)
    if ONE_ACTION not in found and _loops(actions):
        found.append(LOOP)
    if any(step.reward > 0 and idle for step, idle in zip(t.steps, _idle(t), strict=True)):
        found.append(WAITED)
    return tuple(found)


def _loops(actions: Sequence[str]) -> bool:
    """Tell whether some actions come in the same order several times in a row."""
    for period in _LOOP_PERIODS:
        length = period * (_LOOP_TIMES - 1)
        run = 0  # how long each action has been the one of `period` steps ago
        for i in range(period, len(actions)):
            run = run + 1 if actions[i] == actions[i - period] else 0
            if run >= length and len(set(actions[i - period + 1 : i + 1])) > 1:
                return True
    return False


def _idle(t: Trajectory) -> list[bool]:
    actions = [(step.action or "").strip().lower() for step in t.steps]
    idle = _without_effect(t)
    return [
        action in WAITING or idle[i] or (i > 0 and action == actions[i - 1] != "")
        for i, action in enumerate(actions)
    ]
