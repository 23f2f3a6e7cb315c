"""The moments of a loop at which it may be killed: what happens in which stage, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.files import write_digests
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.run_folder import RunFolder
from eto_gym.trajectories import PlayedTrajectory, TrajectoryStore


class Moment(NamedTuple):
    """Something that happens in a stage.

    Attributes:
        stage: Name of the stage, without its key.
        what: "begun", before its work; "served", its servers answer and nothing was asked;
            "stored", its first episode was; "checkpoint", the first of its training is complete;
            "finished", its marker is written, and the next stage has not begun.
    """

    stage: str
    what: str


@contextlib.contextmanager
def watched(see: Callable[[Moment], object]) -> Iterator[None]:
    """Have `see` called at every moment of the loops of this process."""
    running: list[str] = []  # the stages that work; one lies in another where it is an input

    begin, finish = RunFolder._open, RunFolder._finish
    add, playing = TrajectoryStore.add, PlayStages.playing

    def begun(folder: Path, settings: Any) -> bool:
        finished = begin(folder, settings)
        if not finished:
            running.append(_name(folder))
            see(Moment(running[-1], "begun"))
        return finished

    def finished(folder: Path, key: str, result: Any) -> None:
        finish(folder, key, result)
        running.remove(_name(folder))
        see(Moment(_name(folder), "finished"))

    def stored(self: TrajectoryStore, trajectory: PlayedTrajectory) -> None:
        add(self, trajectory)
        see(Moment(_name(self.path.parent), "stored"))

    @contextlib.contextmanager
    def served(self: PlayStages, spec: RolloutSpec) -> Iterator[RolloutSpec]:
        with playing(self, spec) as ready:
            if ready is not spec:
                see(Moment(running[-1], "served"))
            yield ready

    def written(path: Path, **options: Any) -> None:
        write_digests(path, **options)
        if path.parent.name.startswith("checkpoint-"):
            see(Moment(running[-1], "checkpoint"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "_open", staticmethod(begun))
        patch.setattr(RunFolder, "_finish", staticmethod(finished))
        patch.setattr(TrajectoryStore, "add", stored)
        patch.setattr(PlayStages, "playing", served)
        patch.setattr("eto_gym.trainers.run.callbacks.write_digests", written)
        yield


def _name(stage: Path) -> str:
    return stage.name.rsplit("-", 1)[0]
