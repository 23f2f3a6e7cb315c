"""The engine's rules and texts, on a kitchen small enough to know everything about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.alfworld import builtin
from eto_gym.envs.alfworld.engine.engine import NOTHING_HAPPENS, Playthrough, parse_game
from eto_gym.envs.alfworld.engine.wording import HELP_TEXT
from eto_gym.errors import DataError, EngineError, UnknownNameError
from tests.envs.alfworld.kitchen import GOALS, kitchen, kitchen_data, play

GAMES = {name: kitchen(name) for name in GOALS}


def test_intro_names_the_receptacles_and_the_task() -> None:
    assert GAMES["hot potato"].intro == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
        "around you, you see a cabinet 1, a countertop 2, a countertop 1, a fridge 1, a garbagecan "
        "1, a microwave 1, and a sinkbasin 1.\n\nYour task is to: put a hot potato in countertop."
    )


def test_commands_at_the_start() -> None:
    episode = Playthrough(GAMES["hot potato"])
    assert episode.admissible() == [
        "go to cabinet 1",
        "go to countertop 1",
        "go to countertop 2",
        "go to fridge 1",
        "go to garbagecan 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "inventory",
        "look",
    ]
    assert play(episode, "look", "inventory") == [
        "You are in the middle of a room. Looking quickly around you, you see nothing.",
        "You are not carrying anything.",
    ]


def test_a_shared_location_offers_both_receptacles_and_no_way_between_them() -> None:
    episode = Playthrough(GAMES["hot potato"])
    # Numbers run downward in the order of ids: CounterTop_bar_1 is countertop 2.
    assert play(episode, "go to countertop 2", "look", "examine sinkbasin 1") == [
        "You arrive at loc 7. On the countertop 2, you see a cup 1.",
        "You are facing the countertop 2, and sinkbasin 1. Next to it, you see nothing.",
        "On the sinkbasin 1, you see a cup 2, and a potato 1.",
    ]
    assert "go to sinkbasin 1" not in episode.admissible()
    assert "take potato 1 from sinkbasin 1" in episode.admissible()


def test_look_lists_what_moved_between_neighbours() -> None:
    episode = Playthrough(GAMES["hot potato"])
    play(episode, "go to sinkbasin 1", "take potato 1 from sinkbasin 1")
    play(episode, "put potato 1 in/on countertop 2")
    facing = "You are facing the countertop 2, and sinkbasin 1. Next to it, you see "
    assert play(episode, "look") == [facing + "a potato 1."]
    play(episode, "take potato 1 from countertop 2", "put potato 1 in/on sinkbasin 1")
    # Now it was taken from the countertop, and is still around.
    assert play(episode, "look") == [facing + "a potato 1."]
    play(episode, "take potato 1 from sinkbasin 1")
    assert play(episode, "look") == [facing + "nothing."]


def test_doors() -> None:
    episode = Playthrough(GAMES["hot potato"])
    answers = play(episode, "go to fridge 1", "open fridge 1", "close fridge 1", "open fridge 1")
    inside = "In it, you see a cup 1, a lettuce 1, and a plate 1."
    assert answers == [
        "You arrive at loc 4. The fridge 1 is closed.",
        f"You open the fridge 1. The fridge 1 is open. {inside}",
        "You close the fridge 1.",
        f"You open the fridge 1. The fridge 1 is open. {inside}",
    ]
    assert "open fridge 1" not in episode.admissible()


def test_an_object_in_two_receptacles_stays_in_the_other_one() -> None:
    episode = Playthrough(GAMES["hot potato"])
    play(episode, "go to countertop 2", "take cup 1 from countertop 2", "go to fridge 1")
    (answer,) = play(episode, "open fridge 1")
    assert "a cup 1" in answer
    play(episode, "put cup 1 in/on fridge 1")
    assert episode.step("examine fridge 1").count("cup 1") == 1
    play(episode, "take cup 1 from fridge 1")
    assert "cup 1" not in episode.step("examine fridge 1")


def test_one_object_in_hand() -> None:
    episode = Playthrough(GAMES["hot potato"])
    play(episode, "go to sinkbasin 1", "take potato 1 from sinkbasin 1")
    assert not [c for c in episode.admissible() if c.startswith("take")]
    assert play(episode, "inventory") == ["You are carrying: a potato 1."]
    assert episode.step("take cup 2 from sinkbasin 1") == NOTHING_HAPPENS


def test_treatments_and_what_examining_tells() -> None:
    episode = Playthrough(GAMES["two cups"])
    play(episode, "go to sinkbasin 1", "take potato 1 from sinkbasin 1")
    assert play(episode, "examine potato 1") == ["There's nothing special about potato 1."]
    assert play(episode, "clean potato 1 with sinkbasin 1", "examine potato 1") == [
        "You clean the potato 1 using the sinkbasin 1.",
        "This is a clean potato 1.",
    ]
    # Closed doors hinder neither heating nor cooling.
    assert play(
        episode, "go to microwave 1", "heat potato 1 with microwave 1", "examine potato 1"
    ) == [
        "You arrive at loc 6. The microwave 1 is closed.",
        "You heat the potato 1 using the microwave 1.",
        "This is a hot and clean potato 1.",
    ]
    assert play(episode, "go to fridge 1", "cool potato 1 with fridge 1", "examine potato 1")[
        1:
    ] == [
        "You cool the potato 1 using the fridge 1.",
        "This is a cool and clean potato 1.",
    ]
    play(episode, "open fridge 1", "put potato 1 in/on fridge 1", "go to countertop 1")
    play(episode, "take knife 1 from countertop 1", "go to fridge 1")
    assert play(episode, "slice potato 1 with knife 1") == [
        "You sliced the potato 1 with the knife 1."
    ]
    play(episode, "close fridge 1", "slice lettuce 1 with knife 1", "go to countertop 1")
    play(episode, "put knife 1 in/on countertop 1", "go to fridge 1", "open fridge 1")
    play(episode, "take lettuce 1 from fridge 1")
    assert play(episode, "examine lettuce 1") == ["This is a sliced lettuce 1."]
    play(episode, "cool lettuce 1 with fridge 1")
    assert play(episode, "examine lettuce 1") == ["This is a cool sliced lettuce 1."]
    play(episode, "put lettuce 1 in/on fridge 1", "take potato 1 from fridge 1")
    assert play(episode, "examine potato 1") == ["This is a cool and clean sliced potato 1."]


def test_only_cool_is_cold() -> None:
    episode = Playthrough(GAMES["two cups"])
    play(episode, "go to sinkbasin 1", "take potato 1 from sinkbasin 1", "go to fridge 1")
    play(episode, "cool potato 1 with fridge 1")
    assert play(episode, "examine potato 1") == ["This is a cold potato 1."]


def test_plates_list_what_was_inside_them_at_the_start() -> None:
    episode = Playthrough(GAMES["hot potato"])
    play(episode, "go to fridge 1", "open fridge 1", "take plate 1 from fridge 1")
    assert play(episode, "examine plate 1") == [
        "This is a normal plate 1. In it, you see a knife 1."
    ]


def test_what_is_switched_on_stays_on() -> None:
    episode = Playthrough(GAMES["cup by lamp"])
    answers = play(episode, "go to countertop 1", "use desklamp 1", "use desklamp 1")
    assert answers[1:] == ["You turn on the desklamp 1."] * 2
    assert "desklamp 1" in answers[0]
    assert "take desklamp 1 from countertop 1" not in episode.admissible()


def test_putting_needs_a_receptacle_that_takes_the_type() -> None:
    episode = Playthrough(GAMES["hot potato"])
    play(episode, "go to fridge 1", "open fridge 1", "take lettuce 1 from fridge 1")
    play(episode, "go to garbagecan 1")
    assert not [c for c in episode.admissible() if c.startswith("put")]


@pytest.mark.parametrize(
    ("goal", "commands"),
    [
        (
            "hot potato",
            "go to sinkbasin 1; take potato 1 from sinkbasin 1; go to microwave 1; "
            "heat potato 1 with microwave 1; go to countertop 1; put potato 1 in/on countertop 1",
        ),
        (
            "two cups",
            "go to countertop 2; take cup 1 from countertop 2; put cup 1 in/on sinkbasin 1",
        ),
        (
            "cup by lamp",
            "go to sinkbasin 1; take cup 2 from sinkbasin 1; go to countertop 1; use desklamp 1",
        ),
    ],
)
def test_winning(goal: str, commands: str) -> None:
    episode = Playthrough(GAMES[goal])
    *before, last = commands.split("; ")
    play(episode, *before)
    assert not episode.won
    play(episode, last)
    assert episode.won


def test_a_won_goal_can_be_undone_and_reached_again() -> None:
    episode = Playthrough(GAMES["cup by lamp"])
    play(episode, "go to sinkbasin 1", "take cup 2 from sinkbasin 1", "go to countertop 1")
    play(episode, "use desklamp 1")
    play(episode, "go to fridge 1")
    assert not episode.won
    play(episode, "go to countertop 1")
    assert episode.won


def test_move_wording() -> None:
    game = kitchen(verb="move")
    episode = Playthrough(game)
    assert play(episode, "help") == [HELP_TEXT]
    assert play(episode, "go to sinkbasin 1")[0].startswith("You arrive at sinkbasin 1. On the")
    play(episode, "take potato 1 from sinkbasin 1")
    assert play(episode, "move potato 1 to countertop 2") == [
        "You move the potato 1 to the countertop 2."
    ]
    assert episode.admissible() == sorted(episode.admissible())


@pytest.mark.parametrize("verb", ["put", "move"])
def test_a_forced_wording_equals_a_file_of_that_wording(verb: str) -> None:
    other = "move" if verb == "put" else "put"
    forced = parse_game(kitchen_data(verb=other), action_grammar=verb)  # type: ignore[arg-type]
    assert forced.wording == kitchen(verb=verb).wording


def test_names_follow_the_ids() -> None:
    game = GAMES["hot potato"]
    assert game.objects[:3] == ("apple 1", "cup 2", "cup 1")
    assert game.receptacles[-1] == "sinkbasin 1"
    assert game.locations[0] == "loc 7"


# --- laws ----------------------------------------------------------------------------------------

_tasks = st.integers(0, 499).map(lambda i: builtin.task_set("dev")[i].id)
_choices = st.lists(st.integers(0, 10**6), max_size=40)


def _start(task: str | None, verb: str) -> Playthrough:
    if task is None:
        return Playthrough(kitchen(verb=verb))
    return Playthrough(parse_game(builtin.game_text(task, action_grammar=verb)))


@settings(max_examples=30, deadline=None)
@given(st.none() | _tasks, st.sampled_from(["put", "move"]), _choices)
def test_play_is_lawful(task: str | None, verb: str, choices: list[int]) -> None:
    episode, twin = _start(task, verb), _start(task, verb)
    for choice in choices:
        commands = episode.admissible()
        assert commands == sorted(set(commands))
        command = commands[choice % len(commands)]
        before = episode.get_state()
        for wrong in (command.upper(), command + " 1", command.replace(" ", "  "), command[:-1]):
            if wrong.strip() not in commands:
                assert episode.step(wrong) == NOTHING_HAPPENS
        assert episode.get_state() == before
        answer = episode.step(f"  {command}\n")
        assert answer != NOTHING_HAPPENS
        assert twin.step(command) == answer
        # A snapshot knows all that matters for the future.
        saved = json.loads(json.dumps(episode.get_state()))
        twin = Playthrough.from_state(twin.game, saved)
        assert twin.get_state() == saved
        assert twin.won == episode.won
        assert twin.admissible() == episode.admissible()
        held = episode.held
        assert all(
            (o in episode.contents[r]) == (r in episode.inside[o])
            for o in range(len(episode.game.objects))
            for r in range(len(episode.game.receptacles))
        )
        assert held < 0 or episode.game.objects[held] in episode.step("inventory")


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_a_command(text: str) -> None:
    episode = Playthrough(GAMES["hot potato"])
    commands = episode.admissible()
    answer = episode.step(text)
    assert (answer == NOTHING_HAPPENS) == (text.strip() not in commands)


@pytest.mark.parametrize(
    "change",
    [
        {"location": "loc 99"},
        {"held": "sofa 1"},
        {"contents": {"fridge 1": ["dragon 1"]}},
        {"contents": []},
        {"opened": None},
    ],
)
def test_a_foreign_snapshot_is_refused(change: dict[str, Any]) -> None:
    state = Playthrough(GAMES["hot potato"]).get_state()
    with pytest.raises(EngineError, match="does not fit"):
        Playthrough.from_state(GAMES["hot potato"], state | change)


# --- malformed games -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "old", "new", "message"),
    [
        ("grammar", '"task"', '"tusk"', "no rule"),
        ("grammar", "put {o} in/on {r}", "drop {o} on {r}", "PutObject"),
        ("grammar", "You arrive at", "You reach", "GotoLocation"),
        ("pddl_domain", "SinkBasinType", "BathType", "cleanobject"),
        ("pddl_domain", "(:action look", "(:action stare", "lacks the ALFRED actions look"),
        ("pddl_problem", "(:goal", "(:gaol", "no section"),
        ("pddl_problem", "(openable", "(lockable", "lockable"),
        ("pddl_problem", "(exists (?o - object)", "(forall (?o - object)", "forall"),
        ("pddl_problem", "Potato_bar_1 - object", "", "declaring"),
        ("pddl_problem", "(atLocation agent1 loc_bar_9)", "", "one agent"),
        ("pddl_problem", "(receptacleAtLocation Fridge_bar_1 loc_bar_4)", "", "one location"),
        (
            "pddl_problem",
            "(canContain CabinetType CupType)",
            "(canContain CabinetType)",
            "malformed",
        ),
        ("pddl_problem", "(inReceptacle ?o ?r)", "(inReceptacle ?o)", "malformed fact or goal"),
    ],
)
def test_a_game_that_the_engine_does_not_know_is_refused(
    key: str, old: str, new: str, message: str
) -> None:
    data = kitchen_data()
    assert old in data[key]
    data[key] = data[key].replace(old, new)
    with pytest.raises(DataError, match=message):
        parse_game(data)


@pytest.mark.parametrize("data", ["", "[]", "{}", "null", '{"pddl_domain": 1}'])
def test_something_that_is_no_game_is_refused(data: str) -> None:
    with pytest.raises(DataError):
        parse_game(data)


def test_an_unknown_wording_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="put"):
        parse_game(kitchen_data(), action_grammar="drop")  # type: ignore[arg-type]


def test_comments_and_case_do_not_matter() -> None:
    data = kitchen_data()
    problem = data["pddl_problem"].replace("(openable Fridge_bar_1)", "(OPENABLE FRIDGE_bar_1) ; x")
    assert parse_game(data | {"pddl_problem": problem}).openable == GAMES["hot potato"].openable
