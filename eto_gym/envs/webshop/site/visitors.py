"""Sessions of the site's visitors: one environment each, dropped when idle."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from eto_gym.conversation import ConversationEnv
from eto_gym.envs.webshop.env import WebShopEnv
from eto_gym.errors import EtoGymError
from eto_gym.expert import Reply
from eto_gym.trajectories.record import Outcome, Trajectory


class Visitor:
    """One person's episode, played through the environment that agents use.

    Attributes:
        env: The environment.
        lock: Held while a request reads or changes the episode.
        turn: Counts the pages shown, so that a form of an older page is recognised.
        notice: What to tell on the next page.
    """

    def __init__(self, env: WebShopEnv) -> None:
        """Start an episode on a task drawn at random."""
        self.env = env
        self.lock = Lock()
        self.turn = 0
        self.notice = ""
        self._talk = ConversationEnv(env, prompt_style="instruction")
        self._outcome: Outcome | None = None
        self.restart()

    @property
    def over(self) -> bool:
        """Whether something was bought, or the steps are used up."""
        return self._outcome is not None

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self._talk.steps)

    def restart(self, task: int | None = None) -> None:
        """Begin a new episode; on goal `task`, or on one drawn at random.

        Raises:
            UnknownNameError: The split has no such goal.
        """
        _, self._info = self._talk.reset(options=None if task is None else {"task": task})
        self._outcome = None
        self.turn += 1

    def act(self, action: str, thought: str = "") -> None:
        """Take an action, as an agent would by the reply `Thought: ...`, `Action: ...`."""
        reply = Reply(" ".join(thought.split()), action)  # one line, so that it cannot act
        *_, terminated, truncated, self._info = self._talk.step(str(reply))
        if terminated:
            self._outcome = "terminated"
        elif truncated:
            self._outcome = "truncated"
        self.turn += 1

    def trajectory(self) -> Trajectory:
        """Return the finished episode.

        Raises:
            EtoGymError: It is not finished.
        """
        if self._outcome is None:
            raise EtoGymError("the episode is not over yet")
        return Trajectory(
            task_id=self._info["task_id"],
            task_type=self._info["task_type"],
            messages=self._talk.conversation,
            steps=self._talk.steps,
            outcome=self._outcome,
            reward=sum(step.reward for step in self._talk.steps),
            success=self._info["success"],
            policy="human",
            env=self.env.card(),
        )


class Visitors:
    """The visitors of one site, by a secret token each.

    The least recent visitor goes when there are too many, and whoever did nothing for `lifetime`
    seconds goes at the next arrival.
    """

    def __init__(
        self,
        make_env: Callable[[], WebShopEnv],
        *,
        limit: int = 256,
        lifetime: float = 7200.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty shop.

        Args:
            make_env: Makes a visitor's environment.
            limit: Visitors kept at a time; each takes some 100 kB.
            lifetime: Seconds without a request after which a visitor is forgotten.
            clock: Seconds that only grow.
        """
        self._make_env = make_env
        self._limit = limit
        self._lifetime = lifetime
        self._clock = clock
        self._lock = Lock()
        self._visitors: OrderedDict[str, tuple[float, Visitor]] = OrderedDict()

    def __len__(self) -> int:
        """Count the visitors."""
        return len(self._visitors)

    def get(self, token: str | None) -> tuple[str, Visitor]:
        """Return a visitor and the token; a new one where the token is unknown or expired."""
        with self._lock:
            self._forget(self._clock() - self._lifetime)
            if token is None or token not in self._visitors:
                token, visitor = secrets.token_urlsafe(24), Visitor(self._make_env())
                while len(self._visitors) >= self._limit:
                    self._visitors.popitem(last=False)
            else:
                visitor = self._visitors[token][1]
            self._visitors[token] = (self._clock(), visitor)
            self._visitors.move_to_end(token)
            return token, visitor

    def find(self, token: str | None) -> Visitor | None:
        """Return a visitor who is in the shop, or None; nobody comes or goes."""
        with self._lock:
            if token is None or token not in self._visitors:
                return None
            arrived, visitor = self._visitors[token]
            if arrived <= self._clock() - self._lifetime:
                return None
            self._visitors[token] = (self._clock(), visitor)
            self._visitors.move_to_end(token)
            return visitor

    def _forget(self, oldest: float) -> None:
        while self._visitors and next(iter(self._visitors.values()))[0] <= oldest:
            self._visitors.popitem(last=False)
