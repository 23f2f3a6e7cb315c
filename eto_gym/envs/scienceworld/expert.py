"""The expert of ScienceWorld: the engine's own solutions, made shorter, checked, and kept on disk.

The engine can produce a "gold path" for every task. It walks door by door and looks around in every
room. Where teleporting is allowed, walks are collapsed into single jumps; a path counts only when a
replay from the start reaches score 1.0.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from eto_gym.downloads import data_home
from eto_gym.envs.scienceworld.jvm import FLAGS, engine_folder
from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.envs.scienceworld.shortcuts import find_shortcut
from eto_gym.envs.scienceworld.simplifications import parse
from eto_gym.envs.scienceworld.tasks import split_id
from eto_gym.envs.scienceworld.thoughts import think
from eto_gym.errors import EngineError
from eto_gym.expert import Reply
from eto_gym.files import write_json

logger = logging.getLogger(__name__)

_FORMAT = 1
"""Version of the collapsing and of the files; a change makes the files of old versions unused."""

_DOOR = re.compile(r"open (door to .+|.+ door)")

Source = Literal["collapsed", "gold", "shortcut", "none"]


@dataclass(frozen=True, slots=True)
class Solution:
    """How a task is solved.

    Attributes:
        task_id: The task.
        actions: Actions that lead from the start to score 1.0; empty if none are known.
        source: "collapsed" or "gold"; "shortcut" for a plan of our own (see `shortcuts`); "none"
            when not even the gold path replays to 1.0.
    """

    task_id: str
    actions: tuple[str, ...]
    source: Source


class ScienceWorldExpert:
    """Follows the solution of one episode's task."""

    def __init__(self, solution: Solution, *, taken: Sequence[str] = ()) -> None:
        """Create the expert.

        Args:
            solution: The task's solution.
            taken: Actions that the episode has seen already. The expert goes on from there if they
                are the beginning of its solution, and gives up otherwise.
        """
        self.solution = solution
        follows = tuple(taken) == solution.actions[: len(taken)]
        self._next = len(taken) if follows else len(solution.actions)

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        """Return the next thought and action, or None at the end of the solution."""
        actions = self.solution.actions
        if self._next >= len(actions):
            return None
        thought = think(actions, self._next, observation)
        self._next += 1
        return Reply(thought, actions[self._next - 1])


def solve(
    task_id: str,
    simplifications: str,
    engine_options: Mapping[str, Any],
    *,
    cache: bool = True,
    shortcuts: bool = False,
) -> Solution:
    """Return the solution of a task, from the cache if it is there.

    Args:
        task_id: The task.
        simplifications: As the engine takes them.
        engine_options: How to reach an engine; see `EngineSession`.
        cache: Read and write the file on disk, under `downloads.data_home()`.
        shortcuts: Try plans of our own before the engine works one out.

    Raises:
        EngineError: The engine failed.
    """
    path = cache_file(task_id, simplifications, shortcuts=shortcuts)
    if cache and (found := _read(path, task_id)) is not None:
        return found
    session = EngineSession(**engine_options)
    try:
        short: tuple[str, ...] = ()
        if shortcuts and _teleports(simplifications):
            short = find_shortcut(session, *split_id(task_id), simplifications)
        if short:
            solution = Solution(task_id, short, "shortcut")
        else:
            solution = _work_out(session, task_id, simplifications)
    finally:
        session.close()
    if cache:
        _write(path, solution)
    return solution


def collapse(gold: Sequence[str]) -> list[str]:
    """Turn every walk of a gold path into one teleport.

    A walk is a run of opening doors, going and looking around with at least one step to another
    place. It becomes a teleport to its last place, followed by `look around` if the walk ended with
    one. A look at the very start is dropped, since the first observation holds it.

    Example:
        >>> collapse(["open door to hallway", "go to hallway", "look around",
        ...           "open door to kitchen", "go to kitchen", "look around", "open cupboard"])
        ['teleport to kitchen', 'look around', 'open cupboard']
    """
    out: list[str] = []
    run: list[str] = []
    for action in [*gold, ""]:
        if action == "look around" or action.startswith("go to ") or _DOOR.fullmatch(action):
            run.append(action)
            continue
        steps = [i for i, step in enumerate(run) if step.startswith("go to ")]
        if steps:
            out.append("teleport to " + run[steps[-1]].removeprefix("go to "))
            if "look around" in run[steps[-1] :]:
                out.append("look around")
        elif out or action == "":
            out += run
        else:
            out += [step for step in run if step != "look around"]
        run = []
        if action:
            out.append(action)
    return out


def cache_file(task_id: str, simplifications: str, *, shortcuts: bool = False) -> Path:
    """Return where a solution is kept; engine, flags and format are part of the folder's name."""
    kind = ["shortcuts"] if shortcuts else []
    content = json.dumps([_FORMAT, _engine_digest(), FLAGS, simplifications, *kind])
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    return data_home() / "scienceworld" / "solutions" / key / f"{task_id.replace('/', '-')}.json"


def _work_out(session: EngineSession, task_id: str, simplifications: str) -> Solution:
    name, variation = split_id(task_id)
    gold = session.gold_path(name, variation, simplifications)
    candidates: list[tuple[Source, list[str]]] = [("gold", gold)]
    if _teleports(simplifications):
        candidates.insert(0, ("collapsed", collapse(gold)))
    for source, actions in candidates:
        length = _steps_to_success(session, task_id, simplifications, actions)
        if length is not None:
            return Solution(task_id, tuple(actions[:length]), source)
    logger.warning("the engine's own solution of %s does not reach score 1.0", task_id)
    return Solution(task_id, (), "none")


def _teleports(simplifications: str) -> bool:
    return simplifications == "easy" or "teleportAction" in (
        parse(simplifications) if simplifications else ()
    )


def _steps_to_success(
    session: EngineSession, task_id: str, simplifications: str, actions: Sequence[str]
) -> int | None:
    """Replay from the start; return how many actions it takes to score 1.0, or None."""
    session.load(*split_id(task_id), simplifications)
    for count, action in enumerate(actions, start=1):
        result = session.step(action)
        if result.error is not None:
            raise EngineError(f"the engine failed on its own solution of {task_id}: {result.error}")
        if result.completed or result.score < 0:
            return count if result.score >= 1.0 else None
    return None


@functools.cache
def _engine_digest() -> str:
    return hashlib.sha256((engine_folder() / "scienceworld.jar").read_bytes()).hexdigest()


def _read(path: Path, task_id: str) -> Solution | None:
    """Return the solution in a file, or None where there is none that can be used."""
    try:
        data = json.loads(path.read_text("utf-8"))
        actions = tuple(str(action) for action in data["actions"])
        source: Source = data["source"]
        if data["task_id"] == task_id and source in get_args(Source):
            return Solution(task_id, actions, source)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as err:
        logger.warning("%s: a damaged solution is made anew (%s)", path, err)
    return None


def _write(path: Path, solution: Solution) -> None:
    write_json(path, asdict(solution))
