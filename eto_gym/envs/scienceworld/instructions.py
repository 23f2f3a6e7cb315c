"""The instruction and the worked examples of ScienceWorld, true to the simplifications in force."""

from __future__ import annotations

import functools
import json
from collections.abc import Set
from importlib import resources
from typing import Any

from eto_gym.errors import DataError
from eto_gym.expert import Reply
from eto_gym.prompt import Prompt

_OPENING = """\
You are in a small world with a house, in which you carry out science experiments. You see it only \
as text, and you act by writing one action at a time.

The places are: kitchen, bathroom, living room, bedroom, hallway, workshop, art studio, \
greenhouse, foundry, outside. {doors} {containers}"""

_ACTIONS = """\
These are the actions. Replace each word in braces by a place or an object, named as it was shown \
to you:
{movement}
- look around (what is in this place)
- look at {{obj}}, look in {{obj}}, examine {{obj}}, read {{obj}}
- open {{obj}}, close {{obj}}
- pick up {{obj}}, put down {{obj}}, inventory (what you carry)
- move {{obj}} to {{obj}} (into a container or onto a device; "inventory" is a container too)
- pour {{obj}} into {{obj}}, dunk {{obj}} in {{obj}}, mix {{obj}} (everything in a container)
- activate {{obj}}, deactivate {{obj}}
- use {{obj}} on {{obj}} (a tool, such as a thermometer, on something)
- eat {{obj}}, flush {{obj}}
{wiring}
- focus on {{obj}} (declares that this is the object that your task is about)
- wait (10 time steps), wait1 (1 time step)
- task (reads the task again)"""

_ADVICE = """\
Focus only on what the task tells you to focus on: a wrong focus can fail the task for good. If an \
action fits several things, you are asked which one you mean; your next action is then the number \
of your choice. Things such as heating, growing and cooling take time."""

_REPLY = """\
Reply every time with exactly two lines, your reasoning and then one action:
Thought: what you know so far and what you want to do next
Action: the action"""


def build_prompt(simplifications: Set[str]) -> Prompt:
    """Return the prompt for the simplifications in force, named as the engine names them."""
    teleport = "teleportAction" in simplifications
    doors = (
        "All doors are open."
        if "openDoors" in simplifications
        else "Doors may be closed: open one before you go through it."
    )
    containers = (
        "All containers are open."
        if "openContainers" in simplifications
        else "Cupboards, drawers and other containers may be closed: open one to see and to use "
        "what is in it."
    )
    movement = "- go to {place} (through a door of this place)"
    if teleport:
        movement = "- teleport to {place} (from anywhere)\n" + movement
    # "easy" takes the wiring away exactly where no task needs it.
    only = " (only where the task is about electricity)"
    wiring = "- connect {obj} to {obj}, disconnect {obj}" + (
        only if "noElectricalAction" in simplifications else ""
    )
    instruction = "\n\n".join(
        [
            _OPENING.format(doors=doors, containers=containers),
            _ACTIONS.format(movement=movement, wiring=wiring),
            _ADVICE,
            _REPLY,
        ]
    )
    example = "doors"
    if teleport:
        example = "teleport-open" if "openContainers" in simplifications else "teleport"
    return Prompt(instruction, example=worked_example(example))


@functools.cache
def worked_example(name: str) -> tuple[str, ...]:
    """Return one of the worked examples as (observation, reply, observation, ..., reply)."""
    turns: list[str] = []
    for turn in load_examples()[name]["turns"]:
        prefix = Prompt("").observation_prefix if turns else ""
        turns += [prefix + turn["observation"], str(Reply(turn["thought"], turn["action"]))]
    return tuple(turns)


@functools.cache
def load_examples() -> dict[str, dict[str, Any]]:
    """Return the recorded episodes behind the worked examples: task, simplifications, turns.

    Raises:
        DataError: Their file is damaged.
    """
    text = resources.files("eto_gym.envs.scienceworld").joinpath("examples.json").read_text("utf-8")
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise DataError(f"the worked examples of ScienceWorld are damaged: {err}") from err
    return dict(loaded)
