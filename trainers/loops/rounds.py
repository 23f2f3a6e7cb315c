"""Rounds of a loop: it explores and trains in turn, or explores for the next round meanwhile.

What is played while a model is trained is played by a process of its own, which does the next
round's stages in the same run folder, behind servers that the run has ready for it. Its games and
its random numbers so have nothing to do with those of the training. The round then finds its stages
finished; where the process was ended before, it does the rest of them itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Generic, ParamSpec, TypeVar

from eto_gym.errors import EtoGymError
from eto_gym.processes import FollowingContext, follow_parent, leave_group
from eto_gym.trainers.loops.play_stages import ON_TIME, PlayStages, Turn
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import NothingToLearn
from eto_gym.trainers.settings.world import ExplorationSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

Explore = Callable[[PlayStages, Stage, Turn], T]
"""Explores with a model in the run folder of what it is given; picklable, as the function of a
module or a `functools.partial` of one is."""


def explore_tasks(
    play: PlayStages, model: Stage, turn: Turn, *, exploration: ExplorationSettings, tasks: int
) -> Stage:
    """Explore training tasks, as most methods do; `tasks` counts where the settings say none."""
    return play.explore(f"explore-{turn.number}", model, exploration, tasks=tasks, turn=turn)


class Rounds(Generic[T]):
    """Explores and trains in turn.

    By default the model explores that the last training made. With `play_ahead` the exploration of
    the next round is played while a model is trained, by the model that there was before: that of
    the start explores for the first two rounds, that of the first training for the third.

    Example:
        rounds = Rounds(play, start, count=2, explore=explore)
        for i in (1, 2):
            pairs = data.pair(f"pairs-{i}", pairing, experts, rounds.explored())
            current = rounds.train(train.prefer, f"eto-{i}", dpo, current, pairs)
    """

    def __init__(self, play: PlayStages, start: Stage, *, count: int, explore: Explore[T]) -> None:
        """Prepare the first round.

        Args:
            play: The stages of the run that play.
            start: The model that explores first.
            count: Number of rounds.
            explore: Explores.
        """
        self._play = play
        self._count = count
        self._explore = explore
        self._newest = self._player = start
        self._turn = ON_TIME

    def explored(self) -> T:
        """Explore for this round, or return what was explored ahead."""
        return self._explore(self._play, self._player, self._turn)

    def train(self, train: Callable[P, Stage], /, *args: P.args, **kwargs: P.kwargs) -> Stage:
        """Train for this round, which ends it; return the model that was made.

        Args:
            train: Called with the other arguments; returns the stage of the model.
            *args: For it.
            **kwargs: For it.

        Raises:
            EtoGymError: Nothing can be trained; or, once that is done, what was played meanwhile
                was not.
        """
        number = self._turn.number + 1
        if not self._play.settings.play_ahead:
            made = self._player = train(*args, **kwargs)
            self._turn = Turn(number)
            return made
        player, turn = self._newest, Turn(number, staleness=1)
        ahead = number <= self._count
        with self._exploring(player, turn) if ahead else contextlib.nullcontext():
            made = train(*args, **kwargs)
        if self._turn.staleness:
            self._play.staleness[made.key] = self._turn.staleness
        self._newest, self._player, self._turn = made, player, turn
        return made

    @contextlib.contextmanager
    def _exploring(self, model: Stage, turn: Turn) -> Iterator[None]:
        """Explore for another round meanwhile; all processes of the loop must call this.

        The first of them plays all of it; the servers answer before the block begins.

        Raises:
            EtoGymError: The servers do not come up; or, at the end of the block, nobody explored.
        """
        play = self._play
        if play.folder.finished(lambda: self._explore(play, model, turn)):
            yield
            return
        policy = play.policy_maker(model, f"ahead-{turn.number}", temperature=0.0)
        with contextlib.ExitStack() as stack:
            served = stack.enter_context(play.serving(policy))
            started: list[_Explorer] = []

            def start() -> None:
                logger.info("%s explores for round %d meanwhile", model.name, turn.number)
                explorer = _Explorer(self._explore, play.elsewhere(served), model, turn)
                stack.callback(explorer.stop)
                started.append(explorer)

            play.processes.first(start)
            yield
            play.folder.made_ahead(play.processes.first(lambda: started[0].finished()))


_REMEDY = (
    "When the cause is removed, start the same command again: what was trained is kept, and so are "
    "the episodes that were played"
)


_GRACE = 10.0
"""Seconds that the process has to close its environments, once it is done."""


class _Explorer:
    """A process that explores."""

    def __init__(self, explore: Explore[T], play: PlayStages, model: Stage, turn: Turn) -> None:
        """Start it."""
        context = FollowingContext()
        self._connection, child = context.Pipe(duplex=False)
        # Not a daemon, which could have no processes of its own for its environments.
        self._process = context.Process(
            target=_explore_apart, args=(explore, play, model, turn, child), daemon=False
        )
        self._process.start()
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
        child.close()  # so that the end of the process is the end of the pipe

    def finished(self) -> list[str]:
        """Wait until it is done; return the keys of the stages that it has finished.

        Raises:
            EtoGymError: It could not do them, or has ended before.
        """
        try:
            told: list[str] | str = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise EtoGymError(
                "the process that explored during training ended with exit code "
                f"{self._process.exitcode}. {_REMEDY}"
            ) from None
        if isinstance(told, str):
            raise EtoGymError(f"what was played during training failed: {told}. {_REMEDY}")
        self._process.join(timeout=_GRACE)
        return told

    def stop(self) -> None:
        """End it, if it is not done."""
        self._finalizer()
        self._process.join()
        self._connection.close()


def _end(process: BaseProcess, owner: int) -> None:
    """End a process that nobody waits for any more, or else the interpreter would at its end."""
    if os.getpid() == owner:
        process.terminate()


def _explore_apart(
    explore: Explore[T], play: PlayStages, model: Stage, turn: Turn, connection: Connection
) -> None:
    """Explore in a process of its own; send the keys of the stages, or the text of the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    leave_group()
    follow_parent()
    told: list[str] | str = []
    try:
        with contextlib.suppress(NothingToLearn):  # the round finds that out when it begins
            explore(play, model, turn)
        told = [stage.key for stage in play.folder.stages if not stage.reused]
    except Exception as err:
        told = str(err) if isinstance(err, EtoGymError) else f"{type(err).__name__}: {err}"
    connection.send(told)
