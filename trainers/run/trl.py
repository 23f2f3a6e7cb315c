"""Checks the version of TRL, since the trainers built on it override private methods."""

from __future__ import annotations

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
