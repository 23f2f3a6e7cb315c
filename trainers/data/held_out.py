"""Tells which demonstrations are of tasks that must not be trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import gymnasium as gym

from eto_gym.trajectories import Trajectory

_TELLING = 20
"""Characters of a text, blanks left out, that is no chance part of an observation."""


class HeldOut:
    """Recognises demonstrations of some tasks, by the id of the task or by how the episode opens.

    Files of other tools have ids of their own: what names no task that is trained on either is
    compared by its first observation. Where a held-out task has the same, the demonstration counts
    as held out, even if another task begins alike.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        env: gym.Env[str, str],
        *,
        known: Collection[str] = (),
        split: str = "",
    ) -> None:
        """Prepare.

        Args:
            tasks: Ids of the tasks that are held out.
            env: An environment that has them; reset where openings have to be compared.
            known: Ids of tasks that may be trained on.
            split: Split of the held-out tasks: an episode that says that it is of another one is
                none of theirs, whatever its id. Empty: ids alone decide.
        """
        self._tasks = frozenset(tasks)
        self._order = tasks
        self._env = env
        self._known = frozenset(known) - self._tasks
        self._split = split
        self._openings: frozenset[str] | None = None

    def holds(self, trajectory: Trajectory) -> bool:
        """Whether a demonstration is of a held-out task."""
        split = trajectory.env.get("split")
        if self._split and isinstance(split, str) and split != self._split:
            return False
        if trajectory.task_id in self._tasks:
            return True
        if trajectory.task_id in self._known:
            return False
        opening = trajectory.messages[trajectory.start : trajectory.start + 1]
        return bool(opening) and self._begins_so(_plain(opening[0].content))

    def _begins_so(self, text: str) -> bool:
        """Whether a held-out task opens with a text, with more around it or with less of it."""
        if self._openings is None:
            seen = (self._env.reset(options={"task": task})[0] for task in self._order)
            self._openings = frozenset(map(_plain, seen))
        telling = len(text) >= _TELLING
        return any(each in text or (telling and text in each) for each in self._openings)


def _plain(text: str) -> str:
    """Return a text without white space, case and the word that introduces it."""
    return "".join(text.split()).casefold().removeprefix("observation:")
