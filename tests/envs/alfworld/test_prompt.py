"""The worked example is a game that can be played: every answer in it is the engine's."""

from __future__ import annotations

from typing import Literal

import pytest

from eto_gym.envs.alfworld.engine.engine import Playthrough
from eto_gym.envs.alfworld.prompt import make_prompt
from tests.envs.alfworld.kitchen import kitchen

Verb = Literal["put", "move"]


@pytest.mark.parametrize("verb", ["put", "move"])
def test_the_example_wins_and_its_answers_have_the_engines_form(verb: Verb) -> None:
    game = kitchen(verb=verb)
    episode = Playthrough(game)
    example = make_prompt(verb, "full").example
    first, *turns = example
    assert first == game.intro
    for reply, answer in zip(turns[0::2], turns[1::2], strict=True):
        thought, action = reply.split("\n")
        assert thought.startswith("Thought: ")
        command = action.removeprefix("Action: ")
        assert command in episode.admissible()
        told = answer.removeprefix("Observation: ")
        # The example's kitchen has other contents and places; the rest must be the same.
        assert _form(told) == _form(episode.step(command))
    assert episode.won


def _form(answer: str) -> str:
    head = answer.partition("you see")[0]
    place, dot, rest = head.partition(". ")
    return f"arrive{dot}{rest}" if place.startswith("You arrive at loc") else head


@pytest.mark.parametrize("verb", ["put", "move"])
def test_the_instruction_uses_the_games_words(verb: Verb) -> None:
    instruction = make_prompt(verb, "full").instruction
    assert ("- put {obj} in/on {recep}" in instruction) == (verb == "put")
    assert ("- move {obj} to {recep}" in instruction) == (verb == "move")
    assert "- use {obj}" in instruction
    assert "- take {obj} from {recep}" in instruction
    assert "toggle" not in instruction


def test_the_trimmed_style_leaves_out_banner_and_arrival() -> None:
    example = make_prompt("put", "eto").example
    assert example[0].startswith("You are in the middle of a room.")
    assert "\n\n" not in example[0]
    assert not any("You arrive" in text for text in example)
    assert any("You arrive at fridge 1." in text for text in make_prompt("move", "eto").example)
