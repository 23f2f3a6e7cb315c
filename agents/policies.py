"""Factories of policies: plain functions, so that a process can be told what to build."""

from __future__ import annotations

from typing import Any

from eto_gym.agents.policy import Policy


def expert_policy() -> Policy:
    """Build the policy that plays the benchmark's own expert."""
    from eto_gym.agents.scripted import ExpertPolicy

    return ExpertPolicy()


def player_policy() -> Policy:
    """Build the policy of varied play without a purpose."""
    from eto_gym.agents.scripted import PlayerPolicy

    return PlayerPolicy()


def random_policy() -> Policy:
    """Build the policy of random admissible actions."""
    from eto_gym.agents.scripted import RandomPolicy

    return RandomPolicy()


def local_policy(model: str, **options: Any) -> Policy:
    """Build a local Hugging Face model; `options` are those of `LocalPolicy.from_pretrained`."""
    from eto_gym.agents.local import LocalPolicy

    return LocalPolicy.from_pretrained(model, **options)
