"""The instruction and the worked example of ALFWorld, in the wording of the games."""

from __future__ import annotations

from typing import Final, Literal

from eto_gym.envs.alfworld.engine.game import BANNER
from eto_gym.prompt import Prompt

_INSTRUCTION: Final = """\
You are in a house and have a household task to carry out. You see what is around you only as \
text, and you act by writing one action at a time.

At the start you are told which pieces of furniture and appliances are in the room, and what your \
task is. What is on or in them you find out by going there, and by opening those that are closed.

These are the actions. Replace the words in braces by names with their numbers, exactly as they \
were shown to you, such as `mug 1` or `countertop 2`:
- go to {{recep}}
- open {{recep}}
- close {{recep}}
- take {{obj}} from {{recep}}
- {put}
- use {{obj}} (switches a lamp on)
- heat {{obj}} with {{recep}} (a microwave)
- clean {{obj}} with {{recep}} (a sinkbasin)
- cool {{obj}} with {{recep}} (a fridge)
- slice {{obj}} with {{obj}} (a knife that you hold)
- examine {{obj}} or examine {{recep}}
- inventory (tells what you hold)
- look (tells where you are)

You can hold one object at a time. You must be at a place to do anything with it, and you must \
hold an object to heat, clean, cool or put it. To examine an object with a lamp, hold the object \
and use the lamp. If the answer is "Nothing happens.", the action was not possible: try another \
one.

Reply every time with exactly two lines, your reasoning and then one action:
Thought: what you know so far and what you want to do next
Action: the action"""

_PUT: Final = {"put": "put {obj} in/on {recep}", "move": "move {obj} to {recep}"}

# One episode of our own: (thought, action, where it leads as (place, its `loc`) or None, answer).
_ROOM: Final = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, "
    "a countertop 2, a countertop 1, a fridge 1, a garbagecan 1, a microwave 1, and a sinkbasin 1."
)
_TASK: Final = "Your task is to: put a hot potato in countertop."
_TURNS: Final = (
    (
        "I have to find a potato, heat it with the microwave and put it on a countertop. A potato "
        "may well be in the fridge, so I start there.",
        "go to fridge 1",
        ("fridge 1", 4),
        "The fridge 1 is closed.",
    ),
    (
        "The fridge is closed. I open it to see what is inside.",
        "open fridge 1",
        None,
        "You open the fridge 1. The fridge 1 is open. In it, you see a lettuce 1, and a plate 1.",
    ),
    (
        "There is no potato in the fridge. The sinkbasin is another good place to look.",
        "go to sinkbasin 1",
        ("sinkbasin 1", 1),
        "On the sinkbasin 1, you see a cup 1, and a potato 1.",
    ),
    (
        "Here is potato 1. I take it.",
        "take potato 1 from sinkbasin 1",
        None,
        "You pick up the potato 1 from the sinkbasin 1.",
    ),
    (
        "I hold the potato. Now it must become hot, so I go to the microwave.",
        "go to microwave 1",
        ("microwave 1", 2),
        "The microwave 1 is closed.",
    ),
    (
        "I am at the microwave with the potato in hand, and can heat it right away.",
        "heat potato 1 with microwave 1",
        None,
        "You heat the potato 1 using the microwave 1.",
    ),
    (
        "The potato is hot. I bring it to a countertop.",
        "go to countertop 1",
        ("countertop 1", 5),
        "On the countertop 1, you see a knife 1.",
    ),
    (
        "I put the hot potato down here, which completes the task.",
        "{put}",
        None,
        "{answer}",
    ),
)
_LAST: Final = {
    "put": (
        "put potato 1 in/on countertop 1",
        "You put the potato 1 in/on the countertop 1.",
    ),
    "move": ("move potato 1 to countertop 1", "You move the potato 1 to the countertop 1."),
}


def make_prompt(verb: Literal["put", "move"], observation: Literal["full", "eto"]) -> Prompt:
    """Write the prompt.

    Args:
        verb: How the games word putting something down.
        observation: The environment's observation style, which the example follows.
    """
    first = f"{_ROOM}\n{_TASK}" if observation == "eto" else f"{BANNER}\n\n{_ROOM}\n\n{_TASK}"
    texts = [first]
    action_at_end, answer_at_end = _LAST[verb]
    for thought, action, arrival, answer in _TURNS:
        texts.append(f"Thought: {thought}\nAction: {action.format(put=action_at_end)}")
        reached = ""
        if arrival is not None and not (observation == "eto" and verb == "put"):
            place, number = arrival
            reached = f"You arrive at {place if verb == 'move' else f'loc {number}'}. "
        texts.append(f"Observation: {reached}{answer.format(answer=answer_at_end)}")
    return Prompt(instruction=_INSTRUCTION.format(put=_PUT[verb]), example=tuple(texts))
