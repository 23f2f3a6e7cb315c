"""What a loop must be like for its explorations to be played ahead of its trainings."""

from __future__ import annotations

import dataclasses
from typing import Any

from eto_gym.trainers.settings.base import SettingsError

_METHODS = "eto, rft, self-play, step-dpo, mixture and hpl"


def check_ahead(settings: Any) -> None:
    """Refuse settings with which nothing can be played ahead, or nothing new.

    Args:
        settings: Those of any loop, with `play_ahead` on.

    Raises:
        SettingsError: The method explores once, or with the model in training; there is one round;
            the processes that train would have to play; or replies are greedy: the first two
            explorations have one and the same player.
    """
    rounds = getattr(settings, "rounds", None)
    if rounds is None:
        raise SettingsError(
            f"play_ahead is for {_METHODS}, which explore and train in turn; {settings.method} does"
            " not"
        )
    if rounds < 2:
        raise SettingsError(
            "play_ahead plays the next exploration while a model is trained: expected iterations "
            f">= 2, got {settings.iterations}"
        )
    if settings.play_kind == "local" or settings.launcher != "local":
        raise SettingsError(
            "play_ahead plays while the processes of the run train: expected servers that do, by "
            "play serve, play_command or play endpoint:URL, and launcher local, got play "
            f"{settings.play!r} and launcher {settings.launcher!r}"
        )
    for name, temperature in _temperatures(settings).items():
        if temperature == 0:
            raise SettingsError(
                "with play_ahead one model plays the first two explorations, and greedy replies "
                f"would be the same in both: expected {name} > 0, got 0"
            )


def _temperatures(settings: Any) -> dict[str, float]:
    """Return the temperatures at which a loop explores, by the names of their settings."""
    found = {}
    if hasattr(settings, "explore_temperature"):
        found["explore_temperature"] = settings.explore_temperature
    for part in dataclasses.fields(settings):
        if part.name in ("steps", "groups"):
            found[f"{part.name}.temperature"] = getattr(settings, part.name).temperature
    return found
