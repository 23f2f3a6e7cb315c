"""A text environment outside of eto-gym: find the way out of a small maze."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

from eto_gym import Expert, Prompt, Reply, Task, TaskSet, TextEnv

SIZE = 4
MOVES = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
SPLITS = {"train": range(200), "test": range(200, 250)}

Cell = tuple[int, int]


def carve(number: int) -> dict[Cell, set[str]]:
    """Return the open directions of every cell of a maze; each number gives another one."""
    rng = np.random.default_rng(number)
    doors: dict[Cell, set[str]] = {(x, y): set() for x in range(SIZE) for y in range(SIZE)}
    stack, seen = [(0, 0)], {(0, 0)}
    while stack:
        x, y = stack[-1]
        ways = [(name, (x + dx, y + dy)) for name, (dx, dy) in MOVES.items()]
        ways = [(name, cell) for name, cell in ways if cell in doors and cell not in seen]
        if not ways:
            stack.pop()
            continue
        name, cell = ways[int(rng.integers(len(ways)))]
        back = list(MOVES)[(list(MOVES).index(name) + 2) % 4]
        doors[x, y].add(name)
        doors[cell].add(back)
        seen.add(cell)
        stack.append(cell)
    return doors


class MazeEnv(TextEnv):
    """The agent stands in the north-west corner; the exit is the south-east one."""

    def __init__(self, *, split: str = "train", **kwargs: Any) -> None:
        """Create the environment; `kwargs` are those of `TextEnv`."""
        tasks = [Task(f"maze-{number}", "maze", split) for number in SPLITS[split]]
        super().__init__(TaskSet(tasks, split=split), **kwargs)
        self._doors: dict[Cell, set[str]] = {}
        self._at: Cell = (0, 0)

    def card(self) -> dict[str, Any]:
        """Describe what a score depends on."""
        return {"benchmark": "maze", "size": SIZE, "split": self.task_set.split}

    def prompt(self) -> Prompt:
        """Return what an agent is told before its first observation."""
        return Prompt(
            "You are in a maze. Find the exit. Say `Thought: ...` and `Action: ...`, where the "
            "action is north, east, south or west.",
            (
                "There are doors to: east.",
                "Thought: There is one way.\nAction: east",
                "You are out.",
            ),
        )

    def make_expert(self) -> Expert:
        """Return an expert for one episode."""
        return MazeExpert(self)

    def way(self) -> list[str]:
        """Return the shortest way to the exit from where the agent is."""
        queue: deque[tuple[Cell, list[str]]] = deque([(self._at, [])])
        seen = {self._at}
        while queue:
            (x, y), way = queue.popleft()
            if (x, y) == (SIZE - 1, SIZE - 1):
                return way
            for name in sorted(self._doors[x, y]):
                cell = (x + MOVES[name][0], y + MOVES[name][1])
                if cell not in seen:
                    seen.add(cell)
                    queue.append((cell, [*way, name]))
        raise AssertionError("every maze has an exit")

    # --- what a TextEnv asks for ----------------------------------------------------------------

    def _reset(self, task: Task, options: dict[str, Any]) -> str:
        self._doors, self._at = carve(int(task.id.removeprefix("maze-"))), (0, 0)
        return f"Your task is to find the exit. {self._look()}"

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        if action not in self._doors[self._at]:
            return f"There is no way. {self._look()}", 0.0, False, False
        x, y = self._at
        self._at = (x + MOVES[action][0], y + MOVES[action][1])
        if self._out():
            return "You are out.", 1.0, True, False
        return self._look(), 0.0, False, False

    def _info(self) -> dict[str, Any]:
        return {"score": float(self._out()), "success": self._out()}

    def _admissible_actions(self) -> list[str]:
        return sorted(self._doors[self._at])

    def _get_state(self) -> Any:
        return list(self._at)

    def _set_state(self, task: Task, state: Any) -> None:
        self._doors = carve(int(task.id.removeprefix("maze-")))
        self._at = (state[0], state[1])

    def _out(self) -> bool:
        return self._at == (SIZE - 1, SIZE - 1)

    def _look(self) -> str:
        return f"There are doors to: {', '.join(sorted(self._doors[self._at]))}."


class MazeExpert:
    """Walks the shortest way."""

    def __init__(self, env: MazeEnv) -> None:
        """Remember the environment, whose maze the expert may see."""
        self._env = env

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        """Return the next reply."""
        way = self._env.way()
        return Reply(f"The exit is {len(way)} doors away.", way[0]) if way else None


gym.register("Maze-v0", entry_point=MazeEnv, max_episode_steps=30)
