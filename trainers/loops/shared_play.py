"""Plays episodes in several processes, each its part, into one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from eto_gym.agents.rollout.collect import RolloutSpec, gather, latest, played_out
from eto_gym.agents.rollout.engine import Episode
from eto_gym.agents.rollout.launchers import Launcher
from eto_gym.errors import EtoGymError
from eto_gym.files import replacing
from eto_gym.trainers.errors import disk_errors
from eto_gym.trainers.run.process_group import ProcessGroup
from eto_gym.trajectories import Trajectory, TrajectoryStore


def play_shared(
    spec: RolloutSpec,
    episodes: Sequence[Episode],
    *,
    path: Path,
    processes: ProcessGroup,
    progress: str | None = None,
    playing: Callable[[RolloutSpec], AbstractContextManager[RolloutSpec]] = nullcontext,
    launcher: Launcher | None = None,
) -> list[Trajectory]:
    """Play the episodes, each process its part; return all of them in the order of `episodes`.

    While it lasts, each process appends what it has played to a file of its own (a process that is
    alone: to `path`). In the end `path` holds one trajectory per episode in the order of
    `episodes`, so that what is learnt from them depends neither on who played them, nor on which
    ended first, nor on interruptions. Episodes that an interrupted call has stored, with any number
    of processes, are not played again, unless they ended in an error.

    Args:
        spec: What plays, and where; slots and workers are those of each process.
        episodes: What to play, the same in each process.
        path: Where the trajectories go; machines must share the folder.
        processes: The processes; all of them must call this.
        progress: Label of a progress bar, which shows the first process's part; None shows none.
        playing: Returns a context in which what plays is ready, servers for instance, with the
            specification that plays with it. Entered only where there is something to play.
        launcher: Plays for all processes elsewhere, asked by the first; None: each plays its part.

    Raises:
        EtoGymError: A process cannot go on; raised in all of them.
    """
    alone = processes.count == 1 or launcher is not None
    waiting = processes.first(lambda: _waiting(path, spec, episodes))
    part = path if alone else _part(path, processes.index)
    if progress is not None and not alone:
        progress = f"{progress} (1/{processes.count})" if processes.is_first else None

    with playing(spec) if waiting else nullcontext(spec) as ready:

        def play() -> Path | None:
            mine = episodes if alone else _of(episodes, processes.share(waiting))
            store = TrajectoryStore(part)
            gather(ready, mine, store=store, progress=progress, launcher=launcher)
            return part if mine else None

        played = [processes.first(play)] if launcher is not None else processes.each(play)
        parts = [path for path in played if path is not None]

    def join() -> None:
        for written in parts:
            processes.see(written)
        with disk_errors(path, "what was played"):
            _take_in_parts(path)
            _arrange(path, episodes)

    processes.first(join)
    processes.see(path)
    return TrajectoryStore(path).load()


def _part(path: Path, index: int | str) -> Path:
    return path.with_name(f"{path.stem}.part-{index}{path.suffix}")


def _take_in_parts(path: Path) -> None:
    """Append what processes have played to the file of all, and remove theirs.

    If this is interrupted, some trajectories may be in both for a while; they count once.
    """
    parts = sorted(path.parent.glob(_part(path, "*").name))
    with TrajectoryStore(path) as store:
        for part in parts:
            for trajectory in TrajectoryStore(part).load():
                store.add(trajectory)
    for part in parts:
        part.unlink()


def _waiting(path: Path, spec: RolloutSpec, episodes: Sequence[Episode]) -> list[tuple[str, int]]:
    """Return the keys of the episodes that are not stored yet as planned, or ended in an error."""
    _take_in_parts(path)
    done = played_out(spec, episodes, _stored(path))
    return [episode.key for episode in episodes if episode.key not in done]


def _of(episodes: Sequence[Episode], keys: Sequence[tuple[str, int]]) -> list[Episode]:
    """Return the episodes with these keys."""
    known = {episode.key: episode for episode in episodes}
    if unknown := [key for key in keys if key not in known]:
        raise EtoGymError(
            f"the first process plans episodes that this one does not, such as {unknown[0]}: "
            "the processes must run the same version on the same data"
        )
    return [known[key] for key in keys]


def _arrange(path: Path, episodes: Sequence[Episode]) -> None:
    """Write the last trajectory of every episode in the order of `episodes`."""
    played = _stored(path)
    if missing := [episode.key for episode in episodes if episode.key not in played]:
        raise EtoGymError(f"{len(missing)} episodes are missing from {path}, such as {missing[0]}")
    with replacing(path) as partial, TrajectoryStore(partial) as store:
        for episode in episodes:
            store.add(played[episode.key])


def _stored(path: Path) -> dict[tuple[str, int], Trajectory]:
    return latest(TrajectoryStore(path).load())
