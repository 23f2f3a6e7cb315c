"""Game files: the two JSON files of a built-in task, as texts and as a folder on disk."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

from eto_gym.envs.alfworld.builtin.grammar import grammar
from eto_gym.envs.alfworld.builtin.pddl import domain, problem
from eto_gym.envs.alfworld.builtin.tasks import find_spec, task_set
from eto_gym.errors import unknown_name
from eto_gym.files import write_text

GRAMMARS = ("put", "move")
_FOLDERS = {"train": "train", "dev": "valid_seen", "test": "valid_unseen"}


def game_text(task_id: str, *, action_grammar: str = "put") -> str:
    """Write the `game.tw-pddl` of a built-in task.

    Args:
        task_id: Id of a task of any split and house size.
        action_grammar: "put" (default, as the published scores) or "move".

    Raises:
        UnknownNameError: There is no such task or grammar.
    """
    if action_grammar not in GRAMMARS:
        raise unknown_name("action grammar", action_grammar, GRAMMARS)
    task = find_spec(task_id)
    game = {
        "pddl_domain": _domain(action_grammar),
        "grammar": grammar(task.text, action_grammar),
        "pddl_problem": problem(task),
        "solvable": True,
    }
    return json.dumps(game)


def traj_text(task_id: str) -> str:
    """Write the `traj_data.json` of a built-in task, with the fields that readers of games use."""
    task = find_spec(task_id)
    look = task.type == "look_at_obj_in_light"
    scene = task.house.scene
    record = {
        "task_id": task_id.split("/")[1],
        "task_type": task.type,
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": task.obj,
            "parent_target": "" if look else task.target,
            "toggle_target": task.target if look else "",
        },
        "scene": {"floor_plan": f"House-{scene}", "scene_num": int(scene[1:])},
        "turk_annotations": {"anns": [{"task_desc": task.text, "high_descs": []}]},
    }
    return json.dumps(record)


def write_games(
    folder: str | os.PathLike[str],
    split: str,
    *,
    size: str = "medium",
    count: int | None = None,
    action_grammar: str = "put",
) -> list[Path]:
    """Write a split's games below `folder` in the official layout and return the game files.

    The layout is `json_2.1.1/<split>/<task folder>/<trial folder>/{game.tw-pddl, traj_data.json}`,
    with the official names of the splits (dev is `valid_seen`, test is `valid_unseen`).

    Args:
        folder: Where to write; created if missing, files in it are replaced.
        split: "train", "dev" or "test".
        size: House size, as in `task_set`.
        count: How many tasks from the start of the split; None writes all.
        action_grammar: "put" or "move".
    """
    root = Path(folder) / "json_2.1.1" / _FOLDERS.get(split, split)
    written = []
    for task in task_set(split, size=size)[:count]:
        trial = root / task.id
        trial.mkdir(parents=True, exist_ok=True)
        write_text(trial / "traj_data.json", traj_text(task.id), durable=False)
        game = game_text(task.id, action_grammar=action_grammar)
        write_text(trial / "game.tw-pddl", game, durable=False)
        written.append(trial / "game.tw-pddl")
    return written


@lru_cache(maxsize=2)
def _domain(action_grammar: str) -> str:
    return domain(action_grammar)
