"""The goal search against a plain reading of the goal, on random states."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.alfworld.engine.engine import Playthrough
from eto_gym.envs.alfworld.engine.goal import compile_goal
from eto_gym.envs.alfworld.engine.pddl import Expression, parse_problem, read_expressions
from eto_gym.errors import DataError
from tests.envs.alfworld.kitchen import GOALS, kitchen, kitchen_data

_choices = st.lists(st.integers(0, 10**6), max_size=60)


@pytest.mark.parametrize("name", GOALS)
@settings(max_examples=15, deadline=None)
@given(choices=_choices)
def test_the_search_agrees_with_a_plain_reading(name: str, choices: list[int]) -> None:
    problem = parse_problem(kitchen_data(name)["pddl_problem"])
    episode = Playthrough(kitchen(name))
    for choice in choices:
        # Going around leads nowhere, so it is chosen one time in three only.
        commands = episode.admissible()
        acting = [c for c in commands if not c.startswith(("go", "look", "inv", "examine"))]
        if acting and choice % 3:
            commands = acting
        episode.step(commands[choice // 3 % len(commands)])
        facts = _facts(episode, problem.facts)
        assert episode.won == _holds(problem.goal, {}, problem.types, facts)


def _facts(
    episode: Playthrough, start: dict[str, list[tuple[str, ...]]]
) -> dict[str, set[tuple[str, ...]]]:
    """State the whole world as PDDL would, from the snapshot and the names of the ids."""
    ids: dict[str, str] = {}
    for kind in ("atlocation", "receptacleatlocation", "objectatlocation"):
        for row in start[kind]:
            ids |= {name: name for name in row}
    game = episode.game
    objects = sorted(o for o, _ in start["objecttype"])
    receptacles = sorted(r for r, _ in start["receptacletype"])
    locations = sorted(name for name in ids if name.startswith("loc_bar_"))
    to_id = dict(zip(game.objects, objects, strict=True))
    to_id |= dict(zip(game.receptacles, receptacles, strict=True))
    to_id |= dict(zip(game.locations, locations, strict=True))
    state = episode.get_state()
    facts = {name: set(rows) for name, rows in start.items()}
    facts["atlocation"] = {("agent1", to_id[state["location"]])}
    facts["holds"] = {("agent1", to_id[state["held"]])} if state["held"] else set()
    facts["inreceptacle"] = {
        (to_id[o], to_id[r]) for r, inside in state["contents"].items() for o in inside
    }
    for word, predicate in (("clean", "isclean"), ("hot", "ishot"), ("toggled", "istoggled")):
        facts[predicate] = {(to_id[o],) for o in state[word]}
    return facts


def _holds(
    goal: Expression,
    binding: dict[str, str],
    types: dict[str, str],
    facts: dict[str, set[tuple[str, ...]]],
) -> bool:
    assert isinstance(goal, list)
    head, *rest = goal
    if head == "and":
        return all(_holds(part, binding, types, facts) for part in rest)
    if head == "not":
        return not _holds(rest[0], binding, types, facts)
    if head == "exists":
        words = list(rest[0])
        variables: list[Any] = words[0::3]
        members = [[n for n, kind in types.items() if kind == wanted] for wanted in words[2::3]]
        return any(
            _holds(rest[1], binding | dict(zip(variables, values, strict=True)), types, facts)
            for values in itertools.product(*members)
        )
    arguments = tuple(binding.get(str(a), str(a)) for a in rest)
    if head == "=":
        return arguments[0] == arguments[1]
    return arguments in facts.get(str(head), set())


@pytest.mark.parametrize(
    "goal",
    [
        "(or (p ?x) (q ?x))",
        "(exists (?o - object) (or (isHot ?o) (isClean ?o)))",
        "(not (and (isHot ?o)))",
        "(forall (?o - object) (isHot ?o))",
        "(isHot ?o)",
        "(isHot apple)",
        "(exists (?o - object) (= ?o apple))",
        "()",
        "won",
    ],
)
def test_goals_beyond_the_six_shapes_are_refused(goal: str) -> None:
    (expression,) = read_expressions(goal.lower())
    with pytest.raises(DataError):
        compile_goal(expression, members={"object": ["apple"]}, static={})
