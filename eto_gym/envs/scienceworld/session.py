"""The engine as one environment sees it: an episode that survives the death of its JVM."""

from __future__ import annotations

import functools
import logging
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from eto_gym.envs.scienceworld import pool
from eto_gym.envs.scienceworld.jvm import JvmDiedError
from eto_gym.envs.scienceworld.lane import DetachedError, Lane, Member
from eto_gym.errors import EngineError

logger = logging.getLogger(__name__)

Isolation = Literal["shared", "process"]

_REVIVALS = 10

# The engine writes what it is given in lower case. For these two letters, whose lower case depends
# on those around them, Java's own method takes quadratic time; no word of the game has one.
_SLOW_IN_JAVA = str.maketrans({"\u0130": "i\u0307", "\u03a3": "\u03c3"})  # I with a dot; Sigma
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineStep:
    """What the engine answered to an action.

    Attributes:
        observation: The engine's text.
        score: Its raw score; -1.0 when the task was failed for good.
        completed: Whether it considers the task over.
        error: What went wrong inside the engine, or None. An engine with an error is of no more
            use until the next `load`.
    """

    observation: str
    score: float
    completed: bool
    error: str | None = None


class EngineSession:
    """One episode after another on the engine, for one environment.

    The session records the actions of the episode. When its JVM is gone (it died, or this is
    another process than the one that made it), the session joins a lane again, replays the episode
    and checks that it comes to the same point; with the lanes' JVM flags it always does.
    """

    def __init__(
        self,
        *,
        isolation: Isolation = "shared",
        lanes: int | None = None,
        java: str | None = None,
        as_stock: bool = False,
    ) -> None:
        """Create the session; nothing is started before `load`.

        Args:
            isolation: "shared" uses one of this process's lanes, "process" a JVM of its own.
            lanes: How many shared lanes there may be; None means `pool.default_lanes()`.
            java: Java executable, or None to look for one.
            as_stock: Keep two leaks of the stock API, for comparisons with recorded episodes: the
                list of valid actions draws from the episode's random numbers (it asks for one after
                each step, so that a bee may fly elsewhere), and the last
                episode's score stands until the first action that takes part in the game. Such
                episodes cannot be replayed.
        """
        self._as_stock = as_stock
        self._isolation = isolation
        self._lanes = lanes
        self._java = java
        self._task: tuple[str, int, str] | None = None
        self._actions: list[str] = []
        self._last: EngineStep | None = None
        self._lane: Lane | None = None
        self._member = Member()
        self._finalizer: weakref.finalize[..., Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: a copy replays the episode when it is used."""
        state = dict(self.__dict__)
        state.update(_lane=None, _member=Member(), _finalizer=None)
        return state

    # --- the episode ----------------------------------------------------------------------------

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions since `load`."""
        return tuple(self._actions)

    @property
    def task(self) -> tuple[str, int, str] | None:
        """Task name, variation and simplifications of the last `load`."""
        return self._task

    def load(self, task: str, variation: int, simplifications: str) -> None:
        """Start an episode.

        Raises:
            EngineError: The engine refuses the task, or its JVM does not run.
        """
        self._task = (task, variation, simplifications)
        self._actions = []
        self._last = None
        self._member.loaded = False  # whatever the member is at, it is not this episode
        self._run(lambda: None)

    def step(self, action: str) -> EngineStep:
        """Take an action; engine errors are returned, not raised.

        Raises:
            EngineError: The JVM died and could not be brought back to this point.
        """
        # A lone surrogate is a legal str that cannot be sent as UTF-8.
        action = action.encode("utf-8", "replace").decode("utf-8")
        result = self._run(functools.partial(self._raw_step, action))
        self._actions.append(action)
        self._last = result
        return result

    def restore(self, task: str, variation: int, simplifications: str, actions: list[str]) -> None:
        """Go to the point of an episode that `actions` lead to, replaying no more than needed."""
        done = len(self._actions)
        if self._task != (task, variation, simplifications) or self._actions != actions[:done]:
            self.load(task, variation, simplifications)
            done = 0
        for action in actions[done:]:
            self.step(action)

    @property
    def last(self) -> EngineStep | None:
        """The answer to the last action, or None before the first."""
        return self._last

    # --- questions that cost no step and change nothing -----------------------------------------

    def task_description(self) -> str:
        """Return the task's text, with the engine's heading."""
        return str(self._run(lambda: self._member.interface.freeActionTaskDesc()))

    def look(self) -> str:
        """Return the description of the agent's room."""
        return str(self._run(lambda: self._member.interface.freeActionLook()))

    def inventory(self) -> str:
        """Return what the agent carries."""
        return str(self._run(lambda: self._member.interface.freeActionInventory()))

    def goal_progress(self) -> str:
        """Return the engine's table of sub-goals and which of them are reached."""
        return str(self._run(lambda: self._member.interface.getGoalProgressStr()))

    def object_tree(self) -> str:
        """Return all objects with their properties, as the engine's JSON."""

        def query() -> str:
            lane = self._lane
            assert lane is not None
            ask = functools.partial(self._member.interface.getObjectTree, "")
            return str(lane.isolated_query(self._member, ask)())

        return self._run(query)

    def valid_actions(self) -> list[str]:
        """Return the actions that the engine deems possible now, sorted, without repeats."""

        def query() -> list[str]:
            lane = self._lane
            assert lane is not None
            ask = self._member.interface.getValidActionObjectCombinations
            if not self._as_stock:
                ask = lane.isolated_query(self._member, ask)
            return lane.strings(ask())

        return sorted(set(self._run(query)))

    def gold_path(self, task: str, variation: int, simplifications: str) -> list[str]:
        """Return the engine's own solution of a task; the session's episode ends.

        The path does not depend on what was played or generated before.
        """

        def generate() -> list[str]:
            assert self._lane is not None
            self._lane.clear_path_cache()
            self._member.loaded = False
            interface = self._member.interface
            interface.load(task, variation, simplifications, True)
            return self._lane.strings(interface.getGoldActionSequence())

        self._task = None
        self._actions = []
        self._last = None
        return self._run(generate)

    def close(self) -> None:
        """Leave the lane; using the session again joins one again and replays the episode."""
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        lane, self._lane = self._lane, None
        member, self._member = self._member, Member()
        if lane is not None and lane.owner == os.getpid():
            lane.leave(member)

    @property
    def lane(self) -> Lane | None:
        """The lane that the session is a member of now."""
        return self._lane

    # --- reaching the engine --------------------------------------------------------------------

    def _run(self, function: Callable[[], T]) -> T:
        """Run `function` on the engine at the episode's present point, reviving the JVM once.

        A JVM that another session's action killed does not count against this one.
        """
        deaths = 0
        for _ in range(_REVIVALS):
            lane = self.join()
            try:
                self._catch_up(lane)
                return lane.call(self._member, function)
            except DetachedError:
                pass
            except JvmDiedError:
                deaths += 1
                if deaths == 2:
                    raise
            logger.info("replaying %d actions on another JVM", len(self._actions))
        raise JvmDiedError(f"the lane's JVM died {_REVIVALS} times on other episodes' actions")

    def join(self) -> Lane:
        """Return the lane that the session is a member of, after joining one if need be."""
        if self._lane is None or self._lane.owner != os.getpid():
            if self._finalizer is not None:
                self._finalizer.detach()
            self._member = Member()
            self._lane = pool.join(
                shared=self._isolation == "shared",
                lanes=self._lanes or pool.default_lanes(),
                java=self._java,
            )
            self._finalizer = weakref.finalize(self, _leave, self._lane, self._member)
            self._finalizer.atexit = False
        return self._lane

    def _catch_up(self, lane: Lane) -> None:
        """Bring the member to the episode's present point if it is not there."""
        member = self._member
        if member.jvm is None or member.jvm is not lane.jvm:
            lane.attach(member)
        if self._task is None or member.loaded:
            return
        task, variation, simplifications = self._task

        def load() -> str:
            message = member.interface.load(task, variation, simplifications, False)
            option = member.interface.agentInterface()
            if member.agent is not None:
                lane.release(member.agent)
            member.agent = option.get()
            member.simplifications = member.agent.simplificationStr()
            lane.release(option)
            if not self._as_stock:
                # Commands such as `task` leave these as they are, and so does loading.
                getattr(member.interface, "score_$eq")(0.0)
                getattr(member.interface, "isComplete_$eq")(False)
            return str(message)

        message = lane.call(member, load)
        if message:
            raise EngineError(f"the engine refused task {task!r}, variation {variation}: {message}")
        member.loaded = True
        result = None
        for action in self._actions:
            result = lane.call(member, functools.partial(self._raw_step, action))
        if result != self._last:
            member.loaded = False
            raise EngineError(
                f"replaying {len(self._actions)} actions of {task}/{variation} led to {result}, "
                f"expected {self._last}"
            )

    def _raw_step(self, action: str) -> EngineStep:
        """Send one action; call it through the lane."""
        member = self._member
        try:
            observation = str(member.interface.step(action.translate(_SLOW_IN_JAVA)))
        except Exception as err:
            from py4j.protocol import Py4JJavaError

            if not isinstance(err, Py4JJavaError):
                raise
            assert self._lane is not None
            return EngineStep("", 0.0, False, self._lane.describe(err))
        error = None
        if member.agent.isInErrorState():
            error = str(member.agent.getErrorStateMessage()).split("\n", 1)[0][:500]
        return EngineStep(
            observation,
            float(member.interface.getScore()),
            bool(member.interface.getCompleted()),
            error,
        )


def _leave(lane: Lane, member: Member) -> None:
    if lane.owner == os.getpid():
        lane.leave(member, wait=False)
