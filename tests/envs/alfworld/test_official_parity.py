"""Our engine against the installed official one, step by step."""

from __future__ import annotations

import itertools
import json
import random
import re
from importlib import resources
from typing import Any

import pytest

pytest.importorskip("textworld")
pytest.importorskip("alfworld")

from eto_gym.envs.alfworld import ALFWorldEnv
from eto_gym.envs.alfworld.backends import EngineBackend, TextWorldBackend
from eto_gym.tasks import Task, TaskSet
from tests.envs.alfworld.kitchen import GOALS, kitchen_data

pytestmark = pytest.mark.official


_NUMBERS = itertools.count()


class HandMade:
    """Game files from a dictionary."""

    def __init__(self, texts: dict[str, str]) -> None:
        # Parsed games are kept by their source's origin, also after the source is gone.
        self.name = self.origin = f"hand-made {next(_NUMBERS)}"
        self.texts = texts
        tasks = [Task(id=name, type="kitchen", split="train") for name in texts]
        self.task_set = TaskSet(tasks, split="train")

    def text(self, task_id: str) -> str:
        return self.texts[task_id]


def _choose(rng: random.Random, actions: list[str]) -> str:
    """Prefer what changes the world over walking, and try some nonsense."""
    if rng.random() < 0.1:
        odd = ("help", "", "xyzzy", f"  {rng.choice(actions)} ", rng.choice(actions).upper())
        return rng.choice(odd)
    acting = [a for a in actions if not a.startswith(("go to", "inventory"))]
    return rng.choice(acting if acting and rng.random() < 0.7 else actions)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("verb", ["put", "move"])
def test_the_kitchen(goal: str, verb: str) -> None:
    games = HandMade({"kitchen": json.dumps(kitchen_data(goal, verb=verb))})
    _compare(games, seed=1, steps=40)


def test_the_official_domain_and_grammar() -> None:
    folder = resources.files("alfworld") / "data"
    data = kitchen_data(verb="move")
    data["pddl_domain"] = (folder / "alfred.pddl").read_text()
    data["grammar"] = (folder / "alfred.twl2").read_text().replace("UNKNOWN GOAL", "cook a potato.")
    _compare(HandMade({"kitchen": json.dumps(data)}), seed=2, steps=40)


def _compare(games: HandMade, *, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    own, official = EngineBackend(games, "auto"), TextWorldBackend(games, "auto")
    for task in games.task_set.ids:
        assert own.reset(task) == official.reset(task)
        for _ in range(steps):
            actions = own.admissible()
            assert actions == official.admissible()
            assert own.won() == official.won()
            action = _choose(rng, actions)
            assert own.step(action) == official.step(action), action
    official.close()


@pytest.mark.parametrize("action_grammar", ["auto", "put", "move"])
def test_built_in_games_and_forced_wordings(action_grammar: Any) -> None:
    arguments: dict[str, Any] = {
        "split": "dev",
        "action_grammar": action_grammar,
        "admissible_actions": True,
    }
    own, official = ALFWorldEnv(**arguments), ALFWorldEnv(backend="textworld", **arguments)
    assert own.task_set.ids == official.task_set.ids
    for task in (0, 7):
        rng = random.Random(task)
        result: Any = own.reset(options={"task": task})
        assert result == official.reset(options={"task": task})
        info = result[1]
        for _ in range(20):
            action = _choose(rng, info["admissible_actions"])
            result = own.step(action)
            assert result == official.step(action), action
            info = result[-1]
    card = official.card()
    assert re.fullmatch(r"alfworld [\d.]+, textworld [\d.]+", card["backend_version"])
    official.close()


def test_snapshots_and_the_trimmed_style_on_the_official_engine() -> None:
    env = ALFWorldEnv(backend="textworld", observation="eto", admissible_actions=True)
    first, info = env.reset(options={"task": 0})
    assert "Welcome" not in first
    action = next(a for a in info["admissible_actions"] if a.startswith("go to"))
    answer = env.step(action)
    assert not answer[0].startswith("You arrive")
    state = json.loads(json.dumps(env.get_state()))
    after = env.step("inventory")
    env.reset(options={"task": 1})
    env.set_state(state)
    assert env.step("inventory") == after
    env.close()


def test_a_failure_of_the_official_engine_is_an_error_not_an_exception() -> None:
    env = ALFWorldEnv(backend="textworld")
    env.reset(options={"task": 0})

    def fail(*_: object) -> None:
        raise RuntimeError("the planner crashed")

    env._backend._env.step = fail  # type: ignore[attr-defined]
    _, reward, terminated, truncated, info = env.step("look")
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["error"] == "engine"
    env.close()
