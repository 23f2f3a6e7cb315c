"""Built-in games of ALFWorld: houses and tasks made by a generator, with nothing to download.

Games come in the official file format, so that the official engine plays them too. Everything is
a function of names: the id of a task determines every byte of its game.
"""

from __future__ import annotations

from eto_gym.envs.alfworld.builtin.games import game_text, traj_text, write_games
from eto_gym.envs.alfworld.builtin.houses import SIZES, SPLITS
from eto_gym.envs.alfworld.builtin.tasks import task_set

__all__ = ["SIZES", "SPLITS", "game_text", "task_set", "traj_text", "write_games"]
