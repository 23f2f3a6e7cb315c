"""The ids of eto-gym in the Gymnasium registry, and lists of them for tests and tools."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from eto_gym import shared_text
from eto_gym.env import TextEnv
from eto_gym.errors import UnknownNameError, unknown_name

NAMESPACE = "ETO"


def register_all() -> None:
    """Register every environment of the suite; engines are imported only by `gym.make`."""
    shared_text.register()
    gym.register(
        id=f"{NAMESPACE}/ALFWorld-v0",
        entry_point="eto_gym.envs.alfworld:ALFWorldEnv",
        vector_entry_point="eto_gym.vector.entry_points:alfworld",
        max_episode_steps=40,
    )
    gym.register(
        id=f"{NAMESPACE}/WebShop-v0",
        entry_point="eto_gym.envs.webshop:WebShopEnv",
        vector_entry_point="eto_gym.vector.entry_points:webshop",
        max_episode_steps=10,
    )
    gym.register(
        id=f"{NAMESPACE}/ScienceWorld-v0",
        entry_point="eto_gym.envs.scienceworld:ScienceWorldEnv",
        vector_entry_point="eto_gym.vector.entry_points:scienceworld",
    )


def registered_ids() -> list[str]:
    """Return the sorted ids of the suite."""
    return sorted(name for name in gym.registry if name.startswith(f"{NAMESPACE}/"))


def resolve_env_id(name: str) -> str:
    """Return the id for a registered id, `module:id`, or a benchmark's name in any case.

    Example:
        >>> resolve_env_id("alfworld")
        'ETO/ALFWorld-v0'
    """
    ids = registered_ids()
    short = {
        env_id.removeprefix(f"{NAMESPACE}/").rpartition("-v")[0].lower(): env_id for env_id in ids
    }
    if name in gym.registry or ":" in name:
        return name
    if name.lower() in short:
        return short[name.lower()]
    raise unknown_name("environment", name, [*short, *ids])


def data_kwargs(env_id: str, data: str) -> dict[str, Any]:
    """Return the argument of `gym.make` by which an environment takes its data.

    Args:
        env_id: A registered id or `module:id`; its class is imported, no environment is made.
        data: "builtin" or a folder; empty for the environment's own default.

    Returns:
        The environment's `data_argument` with this value; nothing where `data` is empty, or where
        it is "builtin" and the environment takes no such argument.

    Raises:
        UnknownNameError: There is no such environment, or it takes no data and some was given.
    """
    name = env_class(env_id).data_argument
    if name is None and data not in ("", "builtin"):
        raise UnknownNameError(
            f"{env_id} takes no data: expected data 'builtin' or none, got {data!r}"
        )
    return {name: data} if name is not None and data else {}


def make_text_env(env_id: str, **kwargs: Any) -> gym.Env[str, str]:
    """Make an environment as `gym.make` does, with errors that name what is wrong.

    Raises:
        UnknownNameError: There is no such environment, it is no text environment, or it does not
            take one of the arguments.
    """
    check_arguments(env_id, kwargs)
    return gym.make(env_id, **kwargs)


def check_arguments(env_id: str, names: Iterable[str]) -> None:
    """Check that an environment takes arguments of these names, without making it.

    Raises:
        UnknownNameError: There is no such environment, it is no text environment, or it does not
            take one of the arguments.
    """
    creator = env_class(env_id)
    if creator is TextEnv:  # a function makes it: what it takes is seen when it is called
        return
    own = inspect.signature(creator.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        return
    known = [name for name in own if name != "self"]
    general = set(inspect.signature(gym.make).parameters) - {"id", "kwargs"}
    for name in names:
        if name not in known and name not in general:
            raise unknown_name(f"argument of {env_id}", name, known)


def env_class(env_id: str) -> type[TextEnv]:
    """Return the class behind an id, without making an environment.

    An id whose entry point is a function gives `TextEnv` itself: what the function makes is not
    known before it is called.

    Args:
        env_id: A registered id, or `module:id` of one that importing `module` registers.

    Raises:
        UnknownNameError: There is no such environment, or it is no text environment.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        entry = gym.spec(name).entry_point
        creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    except (gym.error.Error, ImportError, AttributeError) as err:
        raise UnknownNameError(f"no environment {env_id!r}: {err}") from err
    if not isinstance(creator, type):
        return TextEnv
    if not issubclass(creator, TextEnv):
        raise UnknownNameError(f"{env_id} is not a text environment (eto_gym.TextEnv)")
    return creator
