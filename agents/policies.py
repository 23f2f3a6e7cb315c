"""Factories of policies: plain functions, so that a process can be told what to build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eto_gym.agents.policy import Policy
from eto_gym.errors import EtoGymError


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
    from eto_gym.agents.models.local import LocalPolicy

    try:
        return LocalPolicy.from_pretrained(model, **options)
    except OSError as err:  # how transformers says that there is no such model, or no network
        raise EtoGymError(f"could not load the model {model!r}: {err}") from err
    except TypeError as err:
        raise EtoGymError(f"could not build the policy of {model!r}: {err}") from err


def endpoint_policy(
    base_urls: str | Sequence[str], model: str | None = None, **options: Any
) -> Policy:
    """Build a policy behind OpenAI-compatible endpoints; `options` are `EndpointPolicy`'s.

    The API key is read from the environment of the process that builds the policy.
    """
    from eto_gym.agents.endpoint.policy import EndpointPolicy

    return EndpointPolicy(base_urls, model, **options)
