"""What an episode still needs to solve its task, and what tells its states apart."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eto_gym.envs.scienceworld.expert import Solution
from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.envs.scienceworld.tasks import split_id
from eto_gym.errors import EngineError

_REMEMBERED = 4096
"""Points of episodes whose steps to go are kept."""

_QUESTION = "Ambiguous request"


def state_parts(session: EngineSession) -> list[Any]:
    """Return all objects, the task's progress, and a question that waits for its answer."""
    tree = json.loads(session.object_tree())
    numbers: dict[int, int] = {}
    for number in sorted(_numbers(tree)):
        numbers[number] = len(numbers)
    last = session.last
    asked = last is not None and last.observation.startswith(_QUESTION)
    return [
        _renumbered(tree, numbers),
        session.goal_progress(),
        last.observation if last is not None and asked else "",
        0.0 if last is None else last.score,
    ]


def _numbers(tree: Any) -> Iterator[int]:
    """Yield the numbers that the engine gave to the objects."""
    yield int(tree["uuid"])
    for inner in tree["contents"].values():
        yield from _numbers(inner)


def _renumbered(tree: dict[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Number the objects of a tree anew, since how far the engine has counted is not its state."""
    inside = [_renumbered(inner, numbers) for inner in tree["contents"].values()]
    inside.sort(key=lambda inner: int(inner["uuid"]))
    return {**tree, "uuid": numbers[int(tree["uuid"])], "contents": inside}


class GoldPath:
    """Tries how much of a solution is left to do, in an engine of its own."""

    def __init__(self, engine_options: Mapping[str, Any]) -> None:
        """Prepare; the engine is joined when something must be tried."""
        self._options = engine_options
        self._session: EngineSession | None = None
        self._known: OrderedDict[tuple[str, tuple[str, ...]], int | None] = OrderedDict()

    def steps(self, solution: Solution, taken: Sequence[str], simplifications: str) -> int | None:
        """Return the fewest steps to success among what is tried, or None.

        Args:
            solution: The task's.
            taken: The actions of the episode so far.
            simplifications: As the engine takes them.
        """
        gold = solution.actions
        if not gold:
            return None
        if tuple(taken) == gold[: len(taken)]:
            return len(gold) - len(taken)
        key = (solution.task_id, tuple(taken))
        if key not in self._known:
            tries = (
                self._tried(solution.task_id, taken, gold[start:], simplifications)
                for start in _starts(gold, taken)
            )
            self._known[key] = next((steps for steps in tries if steps is not None), None)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._known[key]

    def close(self) -> None:
        """Leave the engine; it is joined again when it is needed."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _tried(
        self, task_id: str, taken: Sequence[str], rest: Sequence[str], simplifications: str
    ) -> int | None:
        if self._session is None:
            self._session = EngineSession(**self._options)
        try:
            self._session.restore(*split_id(task_id), simplifications, list(taken))
            for count, action in enumerate(rest, start=1):
                result = self._session.step(action)
                if result.error is not None or result.score < 0:
                    return None
                if result.completed:
                    return count if result.score >= 1.0 else None
        except EngineError:
            return None
        return None


def _starts(gold: Sequence[str], taken: Sequence[str]) -> list[int]:
    """List where in a solution an episode may go on, the shortest rest first.

    That is after the last step of the solution that the episode has come to in its order; at the
    last change of place before it; and at the beginning.
    """
    done = 0
    for action in taken:
        if done < len(gold) and action == gold[done]:
            done += 1
    walks = [
        i for i in range(done) if gold[i].startswith(("teleport to ", "go to ", "open door to "))
    ]
    return list(dict.fromkeys([done, walks[-1] if walks else 0, 0]))
