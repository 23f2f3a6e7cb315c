"""The examples in docstrings, which the reference shows: each is run, and says what it shows."""

from __future__ import annotations

import doctest
import importlib

import pytest

from eto_gym.benchmarks.import_graph import modules

SHOWING = [name for name, path in modules().items() if ">>> " in path.read_text(encoding="utf-8")]


def test_examples_are_found() -> None:
    assert {"eto_gym.conversation", "eto_gym.agents.models.codec"} <= set(SHOWING)


@pytest.mark.parametrize("name", SHOWING)
def test_an_example_in_a_docstring_says_what_it_shows(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as err:
        if (err.name or "").startswith("eto_gym"):
            raise
        pytest.skip(f"without {err.name}")
    assert doctest.testmod(module).failed == 0, capsys.readouterr().out
