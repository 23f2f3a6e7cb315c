"""Checks of state blocks: told step by step, they are those written from all that was seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import pytest

from eto_gym.conversation import FORMAT_ERROR, ConversationEnv
from eto_gym.history import Exchange, Recap, StateWriter, bounded
from eto_gym.testing import text_env

WORDLESS = "I had rather not say."
"""A reply without an action."""


def from_scratch(writer: StateWriter, first: str, exchanges: Iterable[Exchange]) -> str:
    """Write the block of a recap that is told everything at once."""
    recap = writer(first)
    for exchange in exchanges:
        recap.add(exchange)
    return recap.block()


def check_read(talk: ConversationEnv) -> None:
    """Check that what is to be read next ends with the block of all that was seen."""
    head = len(talk.conversation) - 1 - 2 * len(talk.steps)
    seen = [Exchange(step.action, step.observation) for step in talk.steps]
    block = from_scratch(text_env(talk).state_writer(), talk.conversation[head].content, seen)
    assert talk.prompt == bounded(talk.conversation, head, talk.history, block)


def check_long_episode(
    env: gym.Env[str, str],
    choose: Callable[[dict[str, Any]], str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    turns: int,
    options: dict[str, Any],
) -> None:
    """Play with `history="state"`: every turn reads the right block, and tells the recap one step.

    Then go back to a snapshot of the middle, as it was and with an earlier observation changed.
    """
    told: list[Exchange] = []
    add = Recap.add

    def count(recap: Recap, exchange: Exchange) -> None:
        told.append(exchange)
        add(recap, exchange)

    talk = ConversationEnv(env, prompt_style="instruction", history="state")
    _, info = talk.reset(options=options)
    check_read(talk)
    prompts, middle = [talk.prompt], {}
    for turn in range(1, turns + 1):
        reply = WORDLESS if turn % 9 == 0 else f"Action: {choose(info)}"
        with monkeypatch.context() as patch:
            patch.setattr(Recap, "add", count)
            _, _, terminated, truncated, info = talk.step(reply)
        ended = terminated or truncated
        assert not ended, "the episode is to be long"
        assert told == [Exchange(step.action, step.observation) for step in talk.steps]
        check_read(talk)
        prompts.append(talk.prompt)
        if turn == turns // 2:
            middle = json.loads(json.dumps(talk.get_wrapper_state()))
    assert FORMAT_ERROR in [exchange.observation for exchange in told]
    assert len(set(talk.states)) > turns // 4, "the block tells of many turns"
    _check_going_back(talk, middle, prompts[turns // 2], reply=f"Action: {choose(info)}")


def _check_going_back(
    talk: ConversationEnv, middle: dict[str, Any], prompt: Any, *, reply: str
) -> None:
    states = talk.states
    talk.set_wrapper_state(middle)
    assert talk.prompt == prompt
    assert talk.states == states[: len(talk.steps)]
    talk.step(reply)
    check_read(talk)
    # Of an episode that had gone another way, nothing is left.
    changed = json.loads(json.dumps(middle))
    for place in range(len(changed["steps"]) // 2):
        changed["steps"][place][:2] = ["look", "You see nothing."]
    talk.set_wrapper_state(changed)
    check_read(talk)
    assert talk.prompt != prompt
    talk.step(reply)
    check_read(talk)
