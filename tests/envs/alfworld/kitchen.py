"""A small hand-made kitchen whose every fact is known to the tests."""

from __future__ import annotations

import json
from typing import Any

from eto_gym.envs.alfworld.builtin.grammar import grammar
from eto_gym.envs.alfworld.builtin.pddl import domain
from eto_gym.envs.alfworld.engine.engine import Game, Playthrough, parse_game

HOT_POTATO = """
    (and (exists (?r - receptacle) (exists (?o - object) (and
        (heatable ?o) (objectType ?o PotatoType) (receptacleType ?r CounterTopType)
        (isHot ?o) (inReceptacle ?o ?r)))))"""
TWO_CUPS = """
    (and (exists (?r - receptacle) (exists (?o1 - object) (and
        (objectType ?o1 CupType) (receptacleType ?r SinkBasinType) (inReceptacle ?o1 ?r)
        (exists (?o2 - object) (and (not (= ?o1 ?o2)) (objectType ?o2 CupType)
            (receptacleType ?r SinkBasinType) (inReceptacle ?o2 ?r)))))))"""
CUP_BY_LAMP = """
    (and
        (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and
            (objectType ?ot DeskLampType) (toggleable ?ot) (isToggled ?ot)
            (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))
        (exists (?o - object ?a - agent) (and (objectType ?o CupType) (holds ?a ?o))))"""
GOALS = {"hot potato": HOT_POTATO, "two cups": TWO_CUPS, "cup by lamp": CUP_BY_LAMP}

# id -> (type, location); the second countertop shares its location with the sinkbasin.
RECEPTACLES = {
    "Cabinet_bar_1": ("CabinetType", 3),
    "CounterTop_bar_1": ("CounterTopType", 1),
    "CounterTop_bar_2": ("CounterTopType", 5),
    "Fridge_bar_1": ("FridgeType", 4),
    "GarbageCan_bar_1": ("GarbageCanType", 6),
    "Microwave_bar_1": ("MicrowaveType", 2),
    "Sink_bar_1_bar_SinkBasin": ("SinkBasinType", 1),
}
# id -> (type, receptacles, properties); one cup is in two receptacles at once.
OBJECTS: dict[str, tuple[str, list[str], str]] = {
    "Apple_bar_1": ("AppleType", ["Cabinet_bar_1"], "heatable coolable cleanable sliceable"),
    "Cup_bar_1": ("CupType", ["Sink_bar_1_bar_SinkBasin"], "heatable coolable cleanable"),
    "Cup_bar_2": ("CupType", ["CounterTop_bar_1", "Fridge_bar_1"], "cleanable"),
    "DeskLamp_bar_1": ("DeskLampType", ["CounterTop_bar_2"], "toggleable"),
    "Knife_bar_1": ("KnifeType", ["CounterTop_bar_2"], "cleanable"),
    "Lettuce_bar_1": ("LettuceType", ["Fridge_bar_1"], "coolable cleanable sliceable"),
    "Plate_bar_1": ("PlateType", ["Fridge_bar_1"], "cleanable isReceptacleObject"),
    "Potato_bar_1": (
        "PotatoType",
        ["Sink_bar_1_bar_SinkBasin"],
        "heatable coolable cleanable sliceable",
    ),
    "Window_bar_1": ("WindowType", [], "moveable"),
}
ACCEPTED = {
    "CabinetType": "Cup Plate Potato",
    "CounterTopType": "Apple Cup Knife Lettuce Plate Potato",
    "FridgeType": "Apple Cup Lettuce Plate Potato",
    "GarbageCanType": "Apple Potato",
    "MicrowaveType": "Apple Cup Potato",
    "SinkBasinType": "Apple Cup Knife Lettuce Plate Potato",
}
OPENABLE = ("Cabinet_bar_1", "Fridge_bar_1", "Microwave_bar_1")


def kitchen_data(
    goal: str = "hot potato",
    *,
    verb: str = "put",
    task: str = "put a hot potato in countertop.",
    extra_facts: str = "",
) -> dict[str, Any]:
    """Return the contents of a game file."""
    facts = ["(atLocation agent1 loc_bar_9)"]
    names: dict[str, str] = {"agent1": "agent"}
    for name, (kind, place) in RECEPTACLES.items():
        facts += [f"(receptacleType {name} {kind})"]
        facts += [f"(receptacleAtLocation {name} loc_bar_{place})"]
        names |= {name: "receptacle", kind: "rtype", f"loc_bar_{place}": "location"}
    names["loc_bar_9"] = "location"
    for name, (kind, inside, properties) in OBJECTS.items():
        facts += [f"(objectType {name} {kind})"]
        facts += [f"({word} {name})" for word in properties.split()]
        facts += [f"(inReceptacle {name} {receptacle})" for receptacle in inside]
        place = RECEPTACLES[inside[0]][1] if inside else 6
        facts += [f"(objectAtLocation {name} loc_bar_{place})"]
        if inside and "toggleable" not in properties:
            facts += [f"(pickupable {name})"]
        names |= {name: "object", kind: "otype"}
    facts += [f"(openable {name})" for name in OPENABLE]
    for kind, accepted in ACCEPTED.items():
        facts += [f"(canContain {kind} {name}Type)" for name in accepted.split()]
    facts.append("(inReceptacleObject Knife_bar_1 Plate_bar_1)")
    objects = "\n".join(f"    {name} - {kind}" for name, kind in names.items())
    init = "\n".join(f"    {fact}" for fact in facts)
    return {
        "pddl_domain": domain(verb),
        "grammar": grammar(task, verb),
        "pddl_problem": f"(define (problem p)\n(:domain alfred)\n(:objects\n{objects}\n)\n"
        f"(:init\n{init}\n{extra_facts})\n(:goal {GOALS[goal]})\n)",
        "solvable": True,
    }


def kitchen(goal: str = "hot potato", **kwargs: Any) -> Game:
    """Return the parsed game."""
    return parse_game(json.dumps(kitchen_data(goal, **kwargs)))


def play(episode: Playthrough, *commands: str) -> list[str]:
    """Take commands, which must all be admissible, and return the answers."""
    answers = []
    for command in commands:
        assert command in episode.admissible(), (command, episode.admissible())
        answers.append(episode.step(command))
    return answers
