"""Ids of text environments: those of the suite, those of other packages, and making either."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import metadata
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from eto_gym import shared_text
from eto_gym.env import TextEnv
from eto_gym.errors import EtoGymError, UnknownNameError, unknown_name
from eto_gym.processes import import_script

NAMESPACE = "ETO"

ENTRY_POINTS = "eto_gym.environments"
"""Group of the entry points by which other packages name their environments: id -> module."""

_OF_MAKE = {"max_episode_steps", "disable_env_checker"}
"""Arguments that `gym.make` itself takes, whatever the environment."""


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


@functools.cache
def plugin_ids() -> dict[str, str]:
    """Return the environments that other installed packages offer: id -> `module:id`.

    A package names them in its `pyproject.toml`; nothing of it is imported before one is used:

        [project.entry-points."eto_gym.environments"]
        "Maze-v0" = "maze_package.environment"

    Importing the module registers the id with Gymnasium.
    """
    return {
        point.name: f"{point.value}:{point.name}"
        for point in metadata.entry_points(group=ENTRY_POINTS)
    }


def resolve_env_id(name: str) -> str:
    """Return what `gym.make` takes for an environment, in this process and in any other.

    Args:
        name: A registered id, `module:id`, an id that an installed package offers, or any of
            these ids in short: without namespace and version, in any case.

    Raises:
        UnknownNameError: There is no such environment.

    Example:
        >>> resolve_env_id("alfworld")
        'ETO/ALFWorld-v0'
    """
    plugins = plugin_ids()
    if name in gym.registry or ":" in name:
        return name
    if name in plugins:
        return plugins[name]
    known = {**plugins, **{env_id: env_id for env_id in registered_ids()}}  # the suite's own win
    short = {_short(env_id): found for env_id, found in known.items()}
    if name.lower() in short:
        return short[name.lower()]
    raise unknown_name("environment", name, [*sorted(short), *sorted(known)])


def short_names() -> list[str]:
    """Return the short names of the environments that are installed."""
    return sorted({_short(env_id) for env_id in (*registered_ids(), *plugin_ids())})


def _short(env_id: str) -> str:
    """Leave out namespace and version of an id."""
    name = env_id.rpartition("/")[2]
    return (name.rpartition("-v")[0] or name).lower()


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
    """Make a text environment as `gym.make` does, or say in one line why it cannot be.

    Raises:
        UnknownNameError: There is no such environment, it is no text environment, or it does not
            take an argument of this name.
        EtoGymError: It refuses the value of an argument.
    """
    check_arguments(env_id, kwargs)
    try:
        env: gym.Env[str, str] = gym.make(env_id, **kwargs)
    except EtoGymError:
        raise
    except (gym.error.Error, TypeError, ValueError, OSError) as err:
        raise EtoGymError(f"could not make {env_id}: {err}") from err
    if not isinstance(env.unwrapped, TextEnv):
        env.close()
        raise UnknownNameError(f"{env_id} is not a text environment (eto_gym.TextEnv)")
    return env


def check_arguments(env_id: str, names: Iterable[str]) -> None:
    """Refuse arguments of `gym.make` that the environment does not take; none is made.

    Raises:
        UnknownNameError: There is no such environment, or one of the arguments is not its own.
    """
    known = _parameters(_creator(env_id))
    for name in names:
        if known is not None and name not in known:
            close = get_close_matches(name, known, n=1)
            raise UnknownNameError(
                f"{env_id} takes no argument {name!r}"
                + (f"; did you mean {close[0]!r}?" if close else f"; it takes {sorted(known)}")
            )


def _parameters(creator: Any) -> set[str] | None:
    """Name the keyword arguments of a class or function; None where it takes any."""
    names = set(_OF_MAKE)
    inits = (
        [kind.__dict__.get("__init__") for kind in inspect.getmro(creator)]
        if isinstance(creator, type)
        else [creator]
    )
    for init in filter(None, inits):
        parameters = inspect.signature(init).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return names - {"self", "task_set"}
    return None


def env_class(env_id: str) -> type[TextEnv]:
    """Return the class behind an id, without making an environment.

    An id whose entry point is a function gives `TextEnv` itself: what the function makes is not
    known before it is called.

    Args:
        env_id: A registered id, or `module:id` of one that importing `module` registers.

    Raises:
        UnknownNameError: There is no such environment, or it is no text environment.
    """
    creator = _creator(env_id)
    if not isinstance(creator, type):
        return TextEnv
    if not issubclass(creator, TextEnv):
        raise UnknownNameError(f"{env_id} is not a text environment (eto_gym.TextEnv)")
    return creator


def _creator(env_id: str) -> Any:
    """Return the class or function that makes an environment."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        elif name not in gym.registry:
            import_script()  # of whom a worker does not know yet what it registers
        entry = gym.spec(name).entry_point
        return load_env_creator(entry) if isinstance(entry, str) else entry
    except (gym.error.Error, ImportError, AttributeError) as err:
        raise UnknownNameError(f"no environment {env_id!r}: {err}") from err
