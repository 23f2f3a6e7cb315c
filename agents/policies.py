"""Factories of policies: plain functions, so that a process can be told what to build."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from eto_gym.agents.policy import Policy
from eto_gym.errors import EtoGymError, unknown_name

_SECRET = re.compile(r"(?i)api.?key|secret|passw|authorization|(?:access|auth|bearer).?token")
"""Names of what nobody wants in a file."""


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
    """Build a local Hugging Face model; `options` are those of `LocalPolicy.from_pretrained`.

    Raises:
        EtoGymError: There is no such model, or an option is unknown.
    """
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

    Raises:
        EtoGymError: An option is unknown, or has a value that cannot work.
    """
    from eto_gym.agents.endpoint.policy import EndpointPolicy

    try:
        return EndpointPolicy(base_urls, model, **options)
    except TypeError as err:
        raise EtoGymError(f"could not build the policy of an endpoint: {err}") from err


def check_options(policy: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a policy does not have, and secrets: options are recorded.

    Args:
        policy: What `--policy` says: `endpoint:...`, or a model.
        options: What `--policy-arg` says.

    Raises:
        EtoGymError: An option is unknown, or is named as a secret is.
    """
    if not options:
        return
    if "temperature" in options:
        raise EtoGymError("--policy-arg temperature is not obeyed: give it by --temperature")
    if "name" in options and not policy.startswith("endpoint:"):
        raise EtoGymError("--policy-arg name is not obeyed: a model is named as --policy names it")
    known = set(_options(endpoint=policy.startswith("endpoint:")))
    for name in options:
        if name not in known:
            raise unknown_name("--policy-arg", name, sorted(known))
    for name in _names(options):
        if name != "api_key_env" and _SECRET.search(name):
            raise EtoGymError(
                f"--policy-arg holds {name!r}, and what it holds is recorded: put the key into the "
                "environment variable OPENAI_API_KEY, or into another and name that by "
                "--policy-arg api_key_env=NAME"
            )


def _options(*, endpoint: bool) -> Iterator[str]:
    """Yield the names of a policy's options; a model's take torch to be imported."""
    functions: list[Callable[..., Any]]
    if endpoint:
        from eto_gym.agents.endpoint.policy import EndpointPolicy

        functions = [EndpointPolicy.__init__]
        given = {"self", "base_urls"}
    else:
        from eto_gym.agents.models.local import LocalPolicy

        functions = [LocalPolicy.__init__, LocalPolicy.from_pretrained]
        given = {"self", "cls", "model", "codec"}
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in given and parameter.kind is not parameter.VAR_KEYWORD:
                yield name


def _names(value: Any) -> Iterator[str]:
    """Yield the names in nested options."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)
