"""Where games come from: the built-in generator, or a folder of official games."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from weakref import WeakValueDictionary

from eto_gym.envs.alfworld.engine.game import Game, parse_game
from eto_gym.envs.alfworld.engine.wording import ActionGrammar
from eto_gym.envs.alfworld.manifest import GAME_FILE, load_manifest
from eto_gym.errors import DataError, check_choice
from eto_gym.files import expanded
from eto_gym.tasks import Task, TaskSet

OFFICIAL_SPLITS = ("train", "valid_seen", "valid_unseen")
ALIASES = {"dev": "valid_seen", "test": "valid_unseen", "eto_test": "valid_unseen"}
"""Other names of the official splits; "eto_test" keeps the order of the paper's test list."""

DOWNLOAD_HINT = "`eto-gym data download alfworld` fetches the official games"

_CACHED_GAMES = 512
"""Parsed games that a process keeps; one takes about 0.1 MB."""


class GameSource(Protocol):
    """Games of one split.

    Attributes:
        name: "builtin", or the folder of the games, for the card.
        origin: Where texts come from: two sources of one origin have one text for an id.
        task_set: The tasks.
    """

    name: str
    origin: str
    task_set: TaskSet

    def text(self, task_id: str) -> str:
        """Return the contents of the task's `game.tw-pddl`."""
        ...


class BuiltinGames:
    """Games of the built-in generator, made when they are first asked for and kept in memory."""

    def __init__(self, split: str, action_grammar: ActionGrammar, *, size: str = "medium") -> None:
        """List the tasks of "train", "dev" or "test".

        Args:
            split: The split; "dev" and "test" have houses that "train" has not.
            action_grammar: Wording of the games; "auto" is "put", as published scores are for it.
            size: House size: "small", "medium" (the default) or "large".
        """
        from eto_gym.envs.alfworld import builtin

        self.name = self.origin = "builtin" if size == "medium" else f"builtin:{size}"
        self._opened = (self.name, split, action_grammar)
        self.task_set = builtin.task_set(split, size=size)
        self._wording = "put" if action_grammar == "auto" else action_grammar

    def __deepcopy__(self, memo: dict[int, Any]) -> BuiltinGames:
        """Return the source itself, which copies of an environment share."""
        return self

    def __reduce__(self) -> Any:
        """Pickle the name of the games, not their texts."""
        return (open_games, self._opened)

    def text(self, task_id: str) -> str:
        """Generate the contents of the task's `game.tw-pddl`."""
        from eto_gym.envs.alfworld import builtin

        return builtin.game_text(task_id, action_grammar=self._wording)


class OfficialGames:
    """Games in the official layout, `json_2.1.1/<split>/<task>/<trial>/game.tw-pddl`."""

    def __init__(self, folder: Path | str, split: str) -> None:
        """List the playable games of a split.

        Args:
            folder: The folder that holds `json_2.1.1`, that folder itself, or that of the split.
            split: "train", "valid_seen" ("dev") or "valid_unseen" ("test"), or "eto_test": the 134
                games of valid_unseen in the order of the paper's list.

        Raises:
            UnknownNameError: There is no such split.
            DataError: The folder is missing, lacks the split, or holds no playable game.
        """
        native = ALIASES.get(check_choice("split", split, (*OFFICIAL_SPLITS, *ALIASES)), split)
        self._folder = find_split(folder, native)
        self.name = str(self._folder.parent)
        self.origin = str(self._folder)
        manifest = load_manifest(self._folder)
        if not manifest.games:
            left_out = ", ".join(f"{n} {reason}" for reason, n in manifest.skipped.items())
            raise DataError(
                f"{self._folder} holds no playable game ({left_out or 'no trial at all'}): a trial "
                f"needs both traj_data.json and {GAME_FILE}. {DOWNLOAD_HINT}"
            )
        tasks = [Task(id=game, type=kind, split=native) for game, kind in manifest.games]
        if split == "eto_test":
            tasks = _in_paper_order(tasks, self._folder)
        self.task_set = TaskSet(tasks, split=split)

    def __deepcopy__(self, memo: dict[int, Any]) -> OfficialGames:
        """Return the source itself, which copies of an environment share."""
        return self

    def __reduce__(self) -> Any:
        """Pickle the place of the games, not the list of them."""
        return (open_games, (str(self._folder), self.task_set.split, "auto"))

    def text(self, task_id: str) -> str:
        """Read the task's `game.tw-pddl`.

        Raises:
            DataError: The file has gone since it was listed.
        """
        path = self._folder / task_id / GAME_FILE
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as err:
            raise DataError(f"cannot read {path}: {err}. {DOWNLOAD_HINT}") from err


def open_games(data: str | Path, split: str, action_grammar: ActionGrammar) -> GameSource:
    """Return the process's source of the built-in games ("builtin:large") or of a folder's games.

    A source is shared by the environments that use it, and listed anew when none does any more.
    """
    key = (str(data), split, action_grammar)
    with _opening:
        source = _open_sources.get(key)
        if source is None:
            source = _open_sources[key] = _open_source(data, split, action_grammar)
        return source


_open_sources: WeakValueDictionary[tuple[str, str, str], BuiltinGames | OfficialGames] = (
    WeakValueDictionary()
)
_opening = Lock()


def _open_source(
    data: str | Path, split: str, action_grammar: ActionGrammar
) -> BuiltinGames | OfficialGames:
    if isinstance(data, str) and data.split(":", 1)[0] == "builtin":
        size = data.partition(":")[2] or "medium"
        return BuiltinGames(split, action_grammar, size=size)
    return OfficialGames(data, split)


def find_split(folder: Path | str, split: str) -> Path:
    """Find the folder of an official split, given any of the folders above it or itself.

    Raises:
        DataError: There is no such folder or split.
    """
    root = expanded(os.path.expandvars(folder))
    if not root.is_dir():
        raise DataError(
            f"expected data to be 'builtin' or a folder of official games, got {str(folder)!r}, "
            f"which is no folder. {DOWNLOAD_HINT}"
        )
    bases = [root, root / "json_2.1.1", *sorted(root.glob("json_2.1.*"))]
    if root.name in OFFICIAL_SPLITS:
        bases.append(root.parent)
    for base in bases:
        if (base / split).is_dir():
            return base / split
    present = sorted({s for base in bases for s in OFFICIAL_SPLITS if (base / s).is_dir()})
    found = f"It holds {', '.join(present)}." if present else "It holds no split at all."
    raise DataError(f"{root} holds no games of split {split!r}. {found} {DOWNLOAD_HINT}")


def eto_test_ids() -> tuple[str, ...]:
    """Return the ids of the games that the ETO paper tested on, in its order."""
    text = resources.files("eto_gym.envs.alfworld").joinpath("eto_test_ids.txt").read_text("utf-8")
    return tuple(text.split())


def tasks_digest(task_set: TaskSet) -> str:
    """Return a short checksum of the ids of a task set and their order, for cards."""
    return hashlib.sha256("\n".join(task_set.ids).encode()).hexdigest()[:16]


class GameCache:
    """Keeps the games that were used last, so that environments share them.

    Files are read once: a game that changes on disk keeps its old contents in running processes.
    """

    def __init__(self, size: int = _CACHED_GAMES) -> None:
        """Create an empty cache for up to `size` games."""
        self._size = size
        self._games: OrderedDict[tuple[str, str, str], Game] = OrderedDict()

    def get(self, source: GameSource, task_id: str, action_grammar: ActionGrammar) -> Game:
        """Return the parsed game of a task.

        Raises:
            DataError: The game cannot be read; the message names the task.
        """
        key = (source.origin, task_id, action_grammar)
        game = self._games.get(key)
        if game is None:
            try:
                game = parse_game(source.text(task_id), action_grammar=action_grammar)
            except DataError as err:
                raise DataError(f"game {task_id!r} of {source.name}: {err}") from err
            self._games[key] = game
            if len(self._games) > self._size:
                self._games.popitem(last=False)
        else:
            self._games.move_to_end(key)
        return game


GAMES = GameCache()
"""The cache that all environments of a process share."""


def _in_paper_order(tasks: list[Task], folder: Path) -> list[Task]:
    by_id = {task.id: task for task in tasks}
    wanted = eto_test_ids()
    missing = [game for game in wanted if game not in by_id]
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of the {len(wanted)} games of split 'eto_test', such "
            f"as {missing[0]!r}. {DOWNLOAD_HINT}"
        )
    return [by_id[game] for game in wanted]
