"""The thoughts of the expert: a sentence or two per action, from templates.

A thought says why the next action follows from the task, what the last observation showed, and,
before a walk, what the walk is for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_GOAL = re.compile(r"Your task is to (.+?)(?:\.\s|\.$|\n|$)", re.DOTALL)
_READING = re.compile(r"temperature of (-?\d+(?:\.\d+)?) degrees")
_MOVES = ("teleport to ", "go to ")
_STATES = ("liquid", "gaseous", "solid")


def think(actions: Sequence[str], index: int, observation: str) -> str:
    """Return the thought that precedes `actions[index]`.

    Args:
        actions: The whole solution.
        index: Which action comes next.
        observation: What the agent has just read; at index 0 it holds the task description.
    """
    sentences = []
    if index == 0:
        goal = goal_of(observation)
        if goal:
            sentences.append(f"My task is to {goal}.")
    else:
        finding = _finding(actions[index - 1], observation)
        if finding:
            sentences.append(finding)
    sentences.append(_reason(actions, index))
    return " ".join(sentences)


def goal_of(observation: str) -> str:
    """Return what the task description asks for, without the final full stop, or "" if nothing."""
    match = _GOAL.search(observation)
    return " ".join(match.group(1).split()) if match else ""


def _finding(last_action: str, observation: str) -> str:
    """Say what the last action showed, where that matters."""
    reading = _READING.search(observation)
    if reading and last_action.startswith("use thermometer"):
        return f"The thermometer reads {reading.group(1)} degrees celsius."
    if last_action.startswith(("examine ", "look at ")):
        thing = last_action.partition(" ")[2].removeprefix("at ")
        for state in _STATES:
            if f"{state} " in observation and not thing.startswith(state):
                return f"It has become {state}."
    if observation.startswith("No known action matches"):
        return "That did not work, so I go on with my plan."
    return ""


def _reason(actions: Sequence[str], index: int) -> str:
    action = actions[index]
    verb, _, rest = action.partition(" ")
    again = action in actions[max(0, index - 8) : index]
    for prefix in _MOVES:
        if action.startswith(prefix):
            place = action.removeprefix(prefix)
            return f"{_purpose(actions, index)}, so I go to the {place}."
    if action == "look around":
        return "I look around to see what is here."
    if verb == "open" and (rest.startswith("door") or rest.endswith("door")):
        return f"{_purpose(actions, index)}, and the way leads through the {rest}."
    if verb == "open":
        return f"What I need may be inside the {rest}, so I open it."
    if verb == "close":
        return f"The {rest} should be closed now."
    if action.startswith("pick up "):
        return f"I will need the {action.removeprefix('pick up ')}, so I take it."
    if action.startswith("focus on "):
        return (
            f"The {action.removeprefix('focus on ')} is what the task is about, so I focus on it."
        )
    if verb == "move" and " to " in rest:
        thing, _, target = rest.rpartition(" to ")
        return f"I move the {thing} to the {target}."
    if verb == "pour":
        thing, _, target = re.sub(r" into ", " in ", rest).rpartition(" in ")
        return f"I pour the {thing} into the {target}."
    if verb == "use" and " on " in rest:
        tool, _, thing = rest.rpartition(" on ")
        tool = tool.removesuffix(" in inventory")
        return (
            f"I use the {tool} on the {thing} once more to see how it changes."
            if again
            else f"I use the {tool} on the {thing}."
        )
    if verb in {"activate", "deactivate"}:
        return f"Now I turn the {rest} {'on' if verb == 'activate' else 'off'}."
    if verb == "mix":
        return f"Everything is in the {rest}, so I mix it."
    if verb in {"examine", "look"}:
        thing = re.sub(r"^(at|in) ", "", rest)
        return (
            f"I check the {thing} again."
            if again
            else f"I check the {thing} to see what state it is in."
        )
    if verb == "read":
        return f"The {rest} may tell me something useful."
    if verb == "connect":
        return "The circuit needs this connection."
    if verb in {"wait", "wait1"}:
        return "This takes time, so I wait."
    return f"The next step is to {action}."


def _purpose(actions: Sequence[str], index: int) -> str:
    """Say what the walk that starts at `index` is for: the first thing done at its end."""
    for action in actions[index + 1 :]:
        verb, _, rest = action.partition(" ")
        if action == "look around" or action.startswith(_MOVES):
            continue
        if verb == "open" and (rest.startswith("door") or rest.endswith("door")):
            continue
        if action.startswith("pick up "):
            return f"I need the {action.removeprefix('pick up ')}"
        if action.startswith("focus on "):
            return f"I have to focus on the {action.removeprefix('focus on ')}"
        if verb == "move" and " to " in rest:
            thing, _, target = rest.rpartition(" to ")
            return f"I want to bring the {thing} to the {target}"
        if verb not in {"wait", "wait1"}:
            return f"I want to {action}"
    return "The next thing to do is elsewhere"
