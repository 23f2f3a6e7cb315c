"""A tiny text environment for tests: walk a corridor, open the right door."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from eto_gym import Expert, Prompt, Reply, Task, TaskSet, TextEnv

DOORS = 4


class CorridorEnv(TextEnv):
    """Doors stand at positions 0..3; opening the one that the task names earns 1, another -0.5."""

    def __init__(self, *, split: str = "train", tasks: int = 24, **kwargs: Any) -> None:
        names = [Task(f"door-{i % DOORS}/{i}", f"door-{i % DOORS}", split) for i in range(tasks)]
        super().__init__(TaskSet(names, split=split), **kwargs)
        self.position = 0
        self.opened: int | None = None

    @property
    def goal(self) -> int:
        return int(self.task.type.removeprefix("door-"))

    def card(self) -> dict[str, Any]:
        return {"benchmark": "corridor", "split": self.task_set.split}

    def prompt(self) -> Prompt:
        return Prompt(
            "Open the right door. Reply with `Thought: ...` and `Action: ...`.",
            ("Your task is to: open door 1.", "Thought: It is next.\nAction: go", "Opened."),
        )

    def make_expert(self) -> Expert:
        return CorridorExpert()

    def cost_to_go(self) -> int | None:
        if self.opened is not None:
            return 0 if self.opened == self.goal else None
        return self.goal - self.position + 1 if self.position <= self.goal else None

    def _reset(self, task: Task, options: dict[str, Any]) -> str:
        self.position, self.opened = 0, None
        return f"You are at door 0.\nYour task is to: open door {self.goal}."

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        if self.opened is not None:
            return "Nothing happens.", 0.0, True, False
        if action == "go" and self.position < DOORS - 1:
            self.position += 1
            return f"You are at door {self.position}.", 0.0, False, False
        if action == "open":
            self.opened = self.position
            right = self.opened == self.goal
            return ("Well done." if right else "Wrong door."), (1.0 if right else -0.5), True, False
        return "Nothing happens.", 0.0, False, False

    def _info(self) -> dict[str, Any]:
        success = self.opened == self.goal
        return {"score": float(success), "success": success}

    def _admissible_actions(self) -> list[str]:
        return sorted(["open"] + (["go"] if self.position < DOORS - 1 else []))

    def _get_state(self) -> Any:
        return [self.position, self.opened]

    def _set_state(self, task: Task, state: Any) -> None:
        self.position, self.opened = state


class LanedCorridorEnv(CorridorEnv):
    """A corridor that steps in a thread, on one of some lanes."""

    def __init__(self, *, lane: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._lane = lane

    def lane(self) -> int:
        return self._lane


class CorridorExpert:
    """Walks to the door that the task names, and opens it."""

    def __init__(self) -> None:
        self.goal = -1

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        if "open door" in observation:
            self.goal = int(observation.rstrip(".")[-1])
        at_goal = f"at door {self.goal}." in observation
        return Reply("This is the door." if at_goal else "Further on.", "open" if at_goal else "go")


CORRIDOR = "tests.toy:Corridor-v0"
"""Id for `gym.make` in any process: it imports this module, which registers the id."""

gym.register("Corridor-v0", entry_point=CorridorEnv, max_episode_steps=8)


def make_corridor(**kwargs: Any) -> gym.Env[str, str]:
    """Make the corridor as a user would."""
    return gym.make(CORRIDOR, **kwargs)
