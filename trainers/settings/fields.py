"""The fields of settings classes by their dotted names, and settings built from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, get_type_hints

from eto_gym.errors import unknown_name

S = TypeVar("S")


class SettingField(NamedTuple):
    """One setting.

    Attributes:
        name: Dotted name, such as `sft.learning_rate`.
        type: Its annotation.
        default: Its default.
        help: What it means, with the paper's value.
        choices: The allowed strings, where only some are allowed.
    """

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...] | None


@functools.cache
def _hints(settings: Any) -> dict[str, Any]:
    """Return the annotations of a class, which are text, as types."""
    return get_type_hints(settings)


def fields_of(settings: type, prefix: str = "", made: Any = None) -> Iterator[SettingField]:
    """Yield the settings of a class and of its parts, in their order.

    Args:
        settings: A dataclass.
        prefix: What precedes the names.
        made: An instance that has the defaults; None: those of the class.
    """
    hints = _hints(settings)
    for item in dataclasses.fields(settings):
        if made is not None:
            default = getattr(made, item.name)
        elif item.default is not dataclasses.MISSING:
            default = item.default
        else:
            assert item.default_factory is not dataclasses.MISSING  # every setting has a default
            default = item.default_factory()
        name, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from fields_of(kind, f"{name}.", default)
            continue
        paper, choices = item.metadata.get("paper"), item.metadata.get("choices")
        text = item.metadata.get("help", "") + (f" (paper: {paper})" if paper else "")
        yield SettingField(name, kind, default, text, tuple(choices) if choices else None)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names into nested mappings.

    Example:
        >>> nested({"seed": 1, "sft.epochs": 3.0})
        {'seed': 1, 'sft': {'epochs': 3.0}}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def build(settings: type[S], values: Mapping[str, Any]) -> S:
    """Make a dataclass whose parts are mappings, or dataclasses already.

    Raises:
        UnknownNameError: It has no field of such a name.
    """
    kind: Any = settings
    hints = _hints(kind)
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    for name in values:
        if name not in fields:
            raise unknown_name(f"field of {settings.__name__}", name, fields)
    return settings(
        **{
            name: build(hints[name], value)
            if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping)
            else value
            for name, value in values.items()
        }
    )
