"""What trainers built on TRL share: the versions that they were tested with, and their silence."""

from __future__ import annotations

from typing import Any

from eto_gym.errors import MissingDependencyError, require

VERSIONS = ("1.16",)
"""Minor versions of TRL that the trainers were tested with."""


def check_trl(feature: str) -> None:
    """Refuse another version of TRL than those that were tested.

    Args:
        feature: What needs it, for the message.

    Raises:
        MissingDependencyError: TRL is missing, or is another version.
    """
    version = require("trl", feature=feature, extra="train").__version__
    if ".".join(version.split(".")[:2]) not in VERSIONS:
        raise MissingDependencyError(
            f"{feature} needs TRL {' or '.join(VERSIONS)}, found {version}. "
            'Install it with: pip install "eto-gym[train]"'
        )


class QuietTRL:
    """Keeps a trainer of TRL from writing a model card and from telling its makers of its use."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: the report beside the model says what was trained, and how."""

    def _send_telemetry(self) -> None:
        """Send nothing: training must work, and stay silent, without a network."""
