"""Lanes: JVMs that several environments share without noticing each other.

The engine keeps part of its state in globals of the JVM: a random generator, a counter of object
ids, and the list of simplifications. A lane gives every member (one per environment) its own copy,
and puts the right one in place, under the lane's lock, whenever another member's turn comes. With
the JVM flags of `jvm.FLAGS` an episode then is the same as in a fresh JVM of its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from eto_gym.envs.scienceworld.java import find_java
from eto_gym.envs.scienceworld.jvm import Jvm, JvmDiedError
from eto_gym.errors import EngineError

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEAP_BASE_MB = 256
HEAP_PER_MEMBER_MB = 32
HEAP_MINIMUM_MEMBERS = 16
"""A lane's heap allows for this many members at least, since it starts before all have joined."""

_CALLS_PER_CHECK = 16
"""Calls to the engine between two looks at the size of the heap."""

_HEAP_SLACK_MB = 48
"""How much the heap may grow between two collections that the lane asks for."""


class EngineRaisedError(EngineError):
    """A Java exception escaped from the engine; the JVM lives on."""


class DetachedError(JvmDiedError):
    """The member's JVM was stopped, or died on another member's call."""


class Member:
    """The engine of one environment within a lane: its Java objects and its copy of the globals."""

    def __init__(self) -> None:
        """Create a member that is not attached to a JVM yet."""
        self.jvm: Jvm | None = None
        self.interface: Any = None
        self.agent: Any = None
        self.random: Any = None
        self.loaded = False
        self.uid_count = 0
        self.simplifications = ""


class Lane:
    """One lazily started JVM and the members that share it."""

    def __init__(self, java: str | None = None) -> None:
        """Create the lane; the JVM starts with the first call.

        Args:
            java: Java executable, or None to look for one.
        """
        self.owner = os.getpid()
        self.joined = 0
        self._departed = 0
        self.jvm: Jvm | None = None
        self._java = java
        self._lock = threading.Lock()
        self._current: Member | None = None
        self._left: deque[Member] = deque()
        self._random_module: Any = None
        self._random_field: Any = None
        self._uid: Any = None
        self._simplifier: Any = None
        self._scratch_random: Any = None
        self._path_finder: Any = None
        self._string_class: Any = None
        self._runtime: Any = None
        self._calls = 0
        self._heap_ceiling = 0

    @property
    def members(self) -> int:
        """How many members the lane has; the pool counts arrivals, the lane departures."""
        return self.joined - self._departed

    def call(self, member: Member, function: Callable[[], T]) -> T:
        """Run `function` with the globals of `member` in place.

        Raises:
            DetachedError: `member` has to `attach` first; `function` was not called.
            JvmDiedError: The JVM died.
            EngineRaisedError: A Java exception escaped.
        """
        with self._lock:
            self._drop_left()
            if member.jvm is None or member.jvm is not self.jvm:
                raise DetachedError("the member is not attached to the lane's JVM")
            with self._translated_errors():
                self._tidy()
                self._switch_to(member)
                return function()

    def attach(self, member: Member) -> None:
        """Give `member` Java objects of its own in this lane's JVM, which is started if need be.

        Raises:
            EngineError: The JVM does not start, or died at once.
        """
        with self._lock, self._translated_errors():
            self._drop_left()
            if self.jvm is None:
                self._start()
            jvm = self.jvm
            assert jvm is not None
            if member.jvm is not jvm:
                view = jvm.view
                member.random = view.java.util.Random(0)
                member.uid_count = 0
                member.simplifications = ""
                member.agent = None
                member.loaded = False
                self._switch_to(member)
                member.interface = view.scienceworld.runtime.pythonapi.PythonInterface()
                member.jvm = jvm

    def leave(self, member: Member, *, wait: bool = True) -> None:
        """Forget `member`; the last one to leave stops the JVM.

        Args:
            member: A member, attached or not.
            wait: Wait for the lane's turn. A finaliser must not: it may run inside a call of the
                same thread. What it cannot do at once is done with the next call.
        """
        self._left.append(member)
        if self._lock.acquire(blocking=wait):
            try:
                self._drop_left()
            except JvmDiedError:
                pass  # then there is nothing to forget
            finally:
                self._lock.release()

    def isolated_query(self, member: Member, function: Callable[[], T]) -> Callable[[], T]:
        """Wrap a query so that the random numbers and ids it uses are not the member's own.

        The engine draws random numbers where it chooses among names of objects, so that asking for
        the valid actions would otherwise change what happens later.
        """

        def query() -> T:
            count = self._uid.count()
            self._scratch_random.setSeed(0)
            self._random_field.set(self._random_module, self._scratch_random)
            try:
                return function()
            finally:
                self._random_field.set(self._random_module, member.random)
                set_count = getattr(self._uid, "count_$eq")
                set_count(count)

        return query

    def clear_path_cache(self) -> None:
        """Forget the paths between rooms that the engine keeps from earlier gold paths."""
        paths = self._path_finder.precomputedExhaustivePaths()
        paths.clear()
        self._release(paths)

    def strings(self, java_list: Any) -> list[str]:
        """Turn a Java list of one-line strings into a Python list, in one call, and release it."""
        joined = self._string_class.join("\n", java_list)
        self._release(java_list)
        return str(joined).split("\n") if joined else []

    def release(self, *objects: Any) -> None:
        """Let the JVM forget objects that it handed out during a call."""
        self._release(*objects)

    def describe(self, err: Any) -> str:
        """Word a `Py4JJavaError`, and release the exception that it holds."""
        text = str(err.java_exception.toString()).split("\n", 1)[0][:500]
        self._release(err.java_exception)
        return f"the engine raised {text}"

    def stop(self) -> None:
        """Stop the JVM; members find out at their next call."""
        jvm, self.jvm = self.jvm, None
        self._current = None
        if jvm is not None:
            jvm.stop()

    def forget_in_child(self) -> None:
        """Drop what a forked child inherited."""
        if self.jvm is not None:
            self.jvm.forget_in_child()

    # --- under the lock -------------------------------------------------------------------------

    def _start(self) -> None:
        members = max(self.members, HEAP_MINIMUM_MEMBERS)
        jvm = Jvm(find_java(self._java), heap_mb=HEAP_BASE_MB + HEAP_PER_MEMBER_MB * members)
        try:
            self._random_module = _module(jvm, "scala.util.Random$")
            field = _class(jvm, "scala.util.Random").getDeclaredField("self")
            field.setAccessible(True)
            self._random_field = field
            self._uid = _module(jvm, "util.UniqueIdentifier$")
            self._simplifier = _module(jvm, "main.scala.scienceworld.runtime.SimplifierProcessor$")
            self._path_finder = _module(jvm, "scienceworld.goldagent.PathFinder$")
            self._scratch_random = jvm.view.java.util.Random(0)
            self._string_class = jvm.view.java.lang.String
            self._runtime = None
            if not jvm.trims_its_heap:
                self._runtime = jvm.view.java.lang.Runtime.getRuntime()
                self._heap_ceiling = self._runtime.totalMemory() + (_HEAP_SLACK_MB << 20)
        except BaseException:
            jvm.stop()
            raise
        self.jvm = jvm
        self._current = None

    def _tidy(self) -> None:
        """Ask for a full collection when the heap has grown since the last one."""
        self._calls += 1
        if self._calls % _CALLS_PER_CHECK or self._runtime is None:
            return
        if self._runtime.totalMemory() > self._heap_ceiling:
            self._runtime.gc()
            self._heap_ceiling = self._runtime.totalMemory() + (_HEAP_SLACK_MB << 20)

    def _switch_to(self, member: Member) -> None:
        if self._current is member:
            return
        if self._current is not None:
            self._current.uid_count = self._uid.count()
        self._current = None
        self._random_field.set(self._random_module, member.random)
        set_count = getattr(self._uid, "count_$eq")
        set_count(member.uid_count)
        self._release(self._simplifier.parseSimplificationStr(member.simplifications))
        self._current = member

    def _drop_left(self) -> None:
        while self._left:
            member = self._left.popleft()
            self._departed += 1
            if self._current is member:
                self._current = None
            if member.jvm is not None and member.jvm is self.jvm:
                with self._translated_errors():
                    handles = (member.interface, member.agent, member.random)
                    self._release(*(handle for handle in handles if handle is not None))
            member.jvm = None
        if self.members == 0 and self.jvm is not None:
            self.stop()

    def _release(self, *objects: Any) -> None:
        assert self.jvm is not None
        self.jvm.release(*objects)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn py4j's errors into ours; a JVM that cannot be talked to is stopped."""
        from py4j.protocol import Py4JError, Py4JJavaError

        try:
            yield
        except Py4JJavaError as err:
            raise EngineRaisedError(self.describe(err)) from err
        except (Py4JError, OSError, JvmDiedError) as err:
            jvm = self.jvm
            self.stop()
            cause = (jvm.last_words if jvm is not None else "") or str(err)
            logger.warning("a ScienceWorld JVM died: %s", cause)
            raise JvmDiedError(f"the JVM of ScienceWorld died: {cause}") from err
        except BaseException:
            # Interrupted in the middle of an exchange (Ctrl-C): the next answer would be the
            # last one's, so that this JVM is of no more use.
            self.stop()
            raise


def _class(jvm: Jvm, name: str) -> Any:
    return jvm.view.java.lang.Class.forName(name)


def _module(jvm: Jvm, name: str) -> Any:
    """Return the instance behind a Scala `object`."""
    return _class(jvm, name).getField("MODULE$").get(None)
