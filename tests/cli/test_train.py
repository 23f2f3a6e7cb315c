"""`eto-gym train METHOD`: every method parses, has presets, help and a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from eto_gym.cli import train
from eto_gym.errors import UnknownNameError
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.presets import PRESETS

pytest.importorskip("jsonargparse")


@pytest.mark.parametrize("method", train.LOOPS)
def test_every_preset_of_every_method_is_valid(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in PRESETS:
        assert train.main([method, "--preset", name, "--seed=5", "--dry-run"]) == 0
        printed = capsys.readouterr().out
        assert f"preset: {name}" in printed
        assert "seed: 5" in printed


@pytest.mark.parametrize("method", train.METHODS)
def test_every_method_has_a_page_that_names_its_command(method: str) -> None:
    pages = Path(__file__).parents[2] / "docs" / "methods"
    assert f"eto-gym train {method} " in (pages / f"{method}.md").read_text()


@pytest.mark.parametrize("method", train.LOOPS)
def test_every_setting_has_help(method: str) -> None:
    settings = getattr(loops, train.LOOPS[method].settings)
    for item in dataclasses.fields(settings):
        nested = item.default_factory
        assert "help" in item.metadata or nested is not dataclasses.MISSING, item.name


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'step-dpo'"):
        train.main(["stepdpo"])
    assert train.main([]) == 2
    assert train.main(["--help"]) == 0
