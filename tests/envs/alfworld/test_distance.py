"""State keys and steps to the goal, against all states and all plays of small games."""

from __future__ import annotations

from collections import deque
from functools import cache

import pytest

from eto_gym.envs.alfworld.engine.distance import (
    Errand,
    Inspection,
    goal_share,
    read_goal,
    steps_to_goal,
)
from eto_gym.envs.alfworld.engine.engine import Game, Playthrough, parse_game
from eto_gym.envs.alfworld.engine.state_key import state_parts
from eto_gym.envs.alfworld.env import ALFWorldEnv
from tests.envs.alfworld import kitchen as kt

Edge = tuple[str, str, int]


def raw(episode: Playthrough) -> tuple[object, ...]:
    """Everything that an episode consists of."""
    return (
        episode.location,
        episode.held,
        *(frozenset(getattr(episode, n)) for n in ("opened", "clean", "hot", "cool", "sliced")),
        frozenset(episode.toggled),
        frozenset(episode.removed),
        tuple(map(frozenset, episode.inside)),
        tuple(episode.at),
    )


class Graph:
    """All states that can be reached from some, up to a number of them, and where each leads."""

    def __init__(self, game: Game, *, limit: int) -> None:
        self.episodes = [Playthrough(game)]
        numbers = {raw(self.episodes[0]): 0}
        self.edges: list[list[Edge]] = []
        queue = deque([0])
        while queue:
            at = queue.popleft()
            here = self.episodes[at]
            edges = []
            for command in here.admissible():
                after = here.copy()
                answer = after.step(command)
                name = raw(after)
                if name not in numbers:
                    numbers[name] = len(self.episodes)
                    self.episodes.append(after)
                    assert len(self.episodes) < limit, "the game is too large for this test"
                    queue.append(numbers[name])
                edges.append((command, answer, numbers[name]))
            self.edges.append(edges)

    def distances(self) -> list[int | None]:
        """Steps to the nearest state that has won, by a search backwards from all of these."""
        before: list[list[int]] = [[] for _ in self.episodes]
        for start, edges in enumerate(self.edges):
            for *_, end in edges:
                before[end].append(start)
        found: list[int | None] = [0 if e.won else None for e in self.episodes]
        queue = deque(i for i, steps in enumerate(found) if steps == 0)
        while queue:
            at = queue.popleft()
            for start in before[at]:
                if found[start] is None:
                    found[start] = (found[at] or 0) + 1
                    queue.append(start)
        return found

    def futures(self) -> list[int]:
        """Number the states so that two have one number exactly where all play is answered alike.

        Classes are split until no answer and no goal tells two states of one class apart.
        """
        classes = [int(e.won) for e in self.episodes]
        count = 0
        while True:
            names: dict[object, int] = {}
            refined = [
                names.setdefault(
                    (classes[i], tuple((c, answer, classes[end]) for c, answer, end in edges)),
                    len(names),
                )
                for i, edges in enumerate(self.edges)
            ]
            if len(names) == count:
                return refined
            classes, count = refined, len(names)


def small(goal: str, objects: str, receptacles: str) -> Game:
    """Return a kitchen with some of its objects and receptacles alone."""
    with pytest.MonkeyPatch.context() as patch:
        kept = {k: v for k, v in kt.RECEPTACLES.items() if k.split("_")[0] in receptacles.split()}
        patch.setattr(kt, "RECEPTACLES", kept)
        patch.setattr(
            kt,
            "OBJECTS",
            {
                k: (kind, inside, properties)
                for k, (kind, places, properties) in kt.OBJECTS.items()
                if k.split("_")[0] in objects.split()
                and (inside := [place for place in places if place in kept])
            },
        )
        patch.setattr(kt, "OPENABLE", tuple(name for name in kt.OPENABLE if name in kept))
        kinds = {kind for kind, _ in kept.values()}
        words = {name.split("_")[0] for name in kt.OBJECTS}
        accepted = {k: " ".join(w for w in v.split() if w in words) for k, v in kt.ACCEPTED.items()}
        patch.setattr(kt, "ACCEPTED", {k: v for k, v in accepted.items() if k in kinds})
        facts = kt.kitchen_data(goal)
        problem = facts["pddl_problem"].replace(
            "(inReceptacleObject Knife_bar_1 Plate_bar_1)\n", ""
        )
        return parse_game(facts | {"pddl_problem": problem})


GAMES = {
    "hot potato": ("Potato", "Sink CounterTop Microwave"),
    "hot potato, nothing heats": ("Potato Knife", "Sink CounterTop"),
    "two cups": ("Cup", "Sink CounterTop"),
    "two cups, apple": ("Cup Apple", "Sink Cabinet"),
    "cup by lamp": ("Cup DeskLamp", "Sink CounterTop"),
    "hot potato, lamp": ("Potato DeskLamp", "Sink CounterTop Microwave"),
}


@cache
def graph(name: str) -> Graph:
    return Graph(small(name.split(",")[0], *GAMES[name]), limit=3_000)


@pytest.mark.parametrize("name", GAMES)
def test_steps_to_goal_are_those_of_an_exhaustive_search(name: str) -> None:
    whole = graph(name)
    assert [steps_to_goal(e) for e in whole.episodes] == whole.distances()
    assert len(whole.episodes) > 100


@pytest.mark.parametrize("name", GAMES)
def test_equal_keys_mean_equal_futures_and_the_other_way_round(name: str) -> None:
    whole = graph(name)
    keys = [repr(state_parts(episode)) for episode in whole.episodes]
    futures = whole.futures()
    assert len(set(keys)) == len(set(futures)) == len(set(zip(keys, futures, strict=True)))


@pytest.mark.parametrize("name", GAMES)
def test_the_share_is_whole_exactly_at_the_goal(name: str) -> None:
    for episode in graph(name).episodes:
        share = goal_share(episode)
        assert 0.0 <= share <= 1.0
        assert (share == 1.0) == episode.won


def test_goals_of_all_types_are_read() -> None:
    env = ALFWorldEnv()
    found = {}
    for task in list(env.task_set)[:40]:
        env.reset(options={"task": task.id})
        found[task.type] = read_goal(env._backend.episode.game)
    assert len(found) == 6
    assert all(found.values())
    assert {kind for kind, goal in found.items() if isinstance(goal, Inspection)} == {
        "look_at_obj_in_light"
    }
    assert {goal.treatment for goal in found.values() if isinstance(goal, Errand)} == {
        None,
        "heat",
        "cool",
        "clean",
    }
