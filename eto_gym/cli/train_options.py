"""What the training commands share: a parser made from settings classes, with their help."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from eto_gym.cli.parsing import jsonargparse_parser
from eto_gym.errors import require


def new_parser(method: str, description: str) -> Any:
    """Return a parser with the options that every method has."""
    jsonargparse = require("jsonargparse", feature="eto-gym train", extra="train")
    parser = jsonargparse_parser(
        jsonargparse,
        prog=f"eto-gym train {method}",
        description=description.replace("%", "%%"),
    )
    parser.add_argument("--config", action="config", help="YAML or JSON file with settings")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    return parser


def build_settings(parser: Any, options: Any, settings_class: type) -> Any:
    """Return the settings that the options describe."""
    built = parser.instantiate_classes(options)
    return settings_class(**{item.name: built[item.name] for item in _fields(settings_class)})


def add_help(parser: Any, settings: type) -> None:
    """Give every option the help that stands beside its field, with the paper's value."""
    texts = dict(_help_texts(settings))
    for action in parser._actions:
        if text := texts.get(action.dest):
            action.help = text.replace("%", "%%")


def add_adapters(parser: Any, settings: type, argv: Sequence[str]) -> None:
    """Add the short options that make every training of `settings` train adapters only."""
    from eto_gym.trainers.settings.presets import ADAPTERS

    for name, values in ADAPTERS.items():
        if name in typing.get_type_hints(settings):
            continue  # it is a setting of its own there
        text = ", ".join(f"{key} {value}" for key, value in values.items())
        parser.add_argument(
            f"--{name}",
            action="store_true",
            help=f"train adapters only; short for these settings of every training: {text}",
        )
        if f"--{name}" in argv:
            parser.set_defaults(
                {
                    f"{prefix}{key}": v
                    for prefix in _trainings(settings)
                    for key, v in values.items()
                }
            )


def _trainings(settings: type) -> list[str]:
    """Return the prefixes of the options of every training in `settings`, the base stage's not."""
    kinds = typing.get_type_hints(settings)
    if "lora_r" in kinds:
        return [""]
    return [f"{name}." for name, kind in kinds.items() if hasattr(kind, "lora_r")]


def _help_texts(settings: type, prefix: str = "") -> list[tuple[str, str]]:
    texts = []
    for item in _fields(settings):
        if "help" in item.metadata:
            paper = item.metadata.get("paper")
            text = item.metadata["help"] + (f" (paper: {paper})" if paper else "")
            texts.append((prefix + item.name, text))
        nested = item.default_factory
        if callable(nested) and dataclasses.is_dataclass(made := nested()):
            texts += _help_texts(type(made), f"{prefix}{item.name}.")
    return texts


def _fields(settings: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(settings)
