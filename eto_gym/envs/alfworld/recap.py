"""What an agent has seen of a house so far, in a few lines: the state block of ALFWorld."""

from __future__ import annotations

from collections.abc import Sequence

from eto_gym.envs.alfworld.players.beliefs import Beliefs
from eto_gym.history import Exchange
from eto_gym.prompt import without_reason


def write_state(first: str, exchanges: Sequence[Exchange]) -> str:
    """Write where the agent is, what it holds, and what it has found where; "" before any step.

    Example:
        >>> first = "You see a shelf 1. Your task is to: find a mug."
        >>> step = Exchange("go to shelf 1", "On the shelf 1, you see a mug 1.")
        >>> print(write_state(first, [step]))
        So far:
        Task: find a mug.
        You are at: shelf 1
        You hold: nothing
        Found: shelf 1: mug 1
    """
    if not exchanges:
        return ""
    known = Beliefs()
    known.update(None, first)
    for exchange in exchanges:
        if exchange.action is not None:
            known.update(exchange.action.strip(), without_reason(exchange.observation))
    lines = [
        f"Task: {known.task}",
        f"You are at: {known.here or 'the middle of the room'}",
        f"You hold: {known.holding or 'nothing'}",
    ]
    done = [f"{obj} ({', '.join(sorted(how))})" for obj, how in known.states.items()]
    if done:
        lines.append(f"Treated: {', '.join(done)}")
    if known.lit:
        lines.append(f"Turned on: {', '.join(sorted(known.lit))}")
    found = [f"{place}: {', '.join(objs)}" for place, objs in known.contents.items() if objs]
    if found:
        lines.append(f"Found: {'; '.join(found)}")
    bare = [place for place, objs in known.contents.items() if not objs]
    if bare:
        lines.append(f"Nothing in or on: {', '.join(bare)}")
    if known.closed:
        lines.append(f"Closed: {', '.join(sorted(known.closed))}")
    return "\n".join(["So far:", *lines])
