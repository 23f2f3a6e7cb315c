"""What `--help` says of an option: what it does, what it takes, and what holds without it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sitegen import commands

from eto_gym.cli.main import COMMANDS
from eto_gym.cli.train import METHODS

pytest.importorskip("jsonargparse")

METAVARS = {
    # numbers: whole, any, of seconds
    *("N", "X", "S"),
    # what lies on disk
    *("FILE", "FOLDER", "PATH", "RUN"),
    # words
    *("NAME", "ID", "TEXT", "LIST", "I/N", "NAME=VALUE", "NAME=SUM"),
    # what is played, by whom, and where it answers
    *("ENV", "TASK", "POLICY", "MODEL", "ADAPTER", "OUT", "HOST", "URL"),
}
"""One word for one kind of value."""

ARGV = [
    *([name] for name in COMMANDS if name != "train"),
    *(["train", method] for method in METHODS),
]


def actions(parser: Any) -> Iterator[argparse.Action]:
    """Yield what a parser reads, that of the parsers below it included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)
        else:
            yield action


def named(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else action.dest


@pytest.mark.parametrize("argv", ARGV, ids=" ".join)
def test_every_option_says_what_it_does(argv: list[str]) -> None:
    # The loops and the trainings hide what is rarely set from --help, and show it in --help-all.
    assert not [named(action) for action in actions(commands.parser_of(argv)) if not action.help]


@pytest.mark.parametrize("argv", ARGV, ids=" ".join)
def test_every_option_names_its_value_by_a_known_word(argv: list[str]) -> None:
    for action in actions(commands.parser_of(argv)):
        if action.nargs == 0 or action.choices:
            continue
        told = str(action.metavar)
        assert told in METAVARS or re.fullmatch(r"\{[^{}\s]+\}", told), f"{named(action)} {told}"


@pytest.mark.parametrize("argv", ARGV, ids=" ".join)
def test_every_option_tells_its_default(argv: list[str]) -> None:
    for action in actions(commands.parser_of(argv)):
        told = str(action.help)
        if action.nargs == 0 or told == argparse.SUPPRESS:
            continue
        assert "may be repeated" not in told, f"{named(action)}: the word is repeatable"
        assert not re.search(r"\(default [^:]|by default", told), named(action)
        known = action.default not in (None, "", [], {}, argparse.SUPPRESS)
        if known and action.option_strings:
            assert "(default: " in told, f"{named(action)}: {action.default!r}"
