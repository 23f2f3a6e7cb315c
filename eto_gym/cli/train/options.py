"""What the training commands share: options made of settings classes, presets, settings files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, get_args

from eto_gym.cli.arguments import parse_pairs
from eto_gym.cli.parsing import Parser, generated_parser, is_none
from eto_gym.errors import DataError, require
from eto_gym.trainers.settings.fields import SettingField, build, fields_of, nested
from eto_gym.trainers.settings.presets import (
    ADAPTERS,
    PRESETS,
    Sourced,
    settings_from,
    trainings_of,
)

MAIN = {
    *("env", "data", "model", "expert_file", "train_tasks", "iterations", "explore_tasks"),
    *("explore_samples", "explore_temperature", "eval_tasks", "dev_tasks", "max_steps", "history"),
    *("feedback", "play"),
    *("max_new_tokens", "slots", "workers", "seed", "control", "preset", "pairing.contrast"),
    *("phases", "start_from", "steps.rollouts", "step_tasks"),
    *("experience.source", "experience.tries"),
}
"""Settings of the loops that `--help` shows."""

_MAIN_OF_PARTS = {"learning_rate", "epochs", "batch_size", "beta", "rounds", "episodes"}
"""Settings of a part, such as `sft`, that `--help` shows; of the base stage it shows none."""

MAIN_OF_METHODS = {
    *("learning_rate", "epochs", "batch_size", "micro_batch_size", "max_length", "beta", "seed"),
    *("precision", "optimizer", "lora_r", "qlora", "share_prefix", "chat_template", "save_every"),
    *("report_to", "pairing.contrast", "pairing.max_extra_rounds"),
}
"""Settings of a training on a file that `--help` shows."""

_METAVARS = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Command:
    """What a training command takes.

    Attributes:
        method: Name of the method.
        description: What it does.
        settings: The class of its settings.
        flags: Adds the options that are no settings.
        presets: Whether there are presets for it.
        main: Settings that `--help` shows; the others are shown by `--help-all`. None: all.
        names: Setting -> its option, where that is another word.
        renamed: Old option -> the option that does the same now.
        pairs: Setting that is a dict -> the option that gives one value of it, as NAME=VALUE.
    """

    method: str
    description: str
    settings: type
    flags: Callable[[Any], None]
    presets: bool = False
    main: Set[str] | None = None
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    renamed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pairs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Chosen:
    """What a command line amounts to.

    Attributes:
        options: All options by name.
        settings: The settings.
        sources: Dotted name -> value and source of what is no default.
    """

    options: Any
    settings: Any
    sources: dict[str, Sourced]


def read_command(command: Command, argv: Sequence[str]) -> Chosen:
    """Read a command line: options over settings files, these over the preset, that over defaults.

    Raises:
        EtoGymError: A preset, a settings file or a setting is not there, or a value cannot work.
    """
    jsonargparse = require("jsonargparse", feature="eto-gym train", extra="train")
    prog = f"eto-gym train {command.method}"
    first = _first_look(command, prog, argv)
    parser = generated_parser(
        jsonargparse,
        prog=prog,
        description=command.description.replace("%", "%%"),
        formatter_class=argparse.HelpFormatter,
    )
    parser.renamed = command.renamed
    parser.may_be_none = {
        f"--{_option(command, item)}" for item in fields_of(command.settings) if _may_be_none(item)
    }
    flags = add_options(parser, command, everything=first.help_all)
    if first.help_all:
        parser.print_help()
        parser.exit(0)
    found = settings_from(
        command.settings,
        preset=getattr(first, "preset", "") or "",
        files=first.config,
        env=getattr(first, "env", "") or "",
        method=command.method,
        others=flags,
    )
    for name, values in ADAPTERS.items():
        if getattr(first, name, False):
            found |= {
                (f"{part}.{key}" if part else key): Sourced(value, f"--{name}")
                for part in trainings_of(command.settings)
                for key, value in values.items()
            }
    parser.set_defaults(_checked(jsonargparse, command, prog, found, flags))
    options = parser.parse_args(argv)
    values = {item.name: options[item.name] for item in fields_of(command.settings)}
    for setting, option in command.pairs.items():
        words = options[option.replace("-", "_")]
        values[setting] = {**(values[setting] or {}), **parse_pairs(words)}
    settings: Any = build(command.settings, nested(values))
    return Chosen(options, settings, dict(_sources(command.settings, values, found)))


def printed(chosen: Chosen, **more: Any) -> str:
    """Return the settings as a file that `--config` reads, with the source of each as a comment."""
    import yaml

    names = [item.name for item in fields_of(type(chosen.settings))]
    values = nested({**more, **{name: _get(chosen.settings, name) for name in names}})
    lines = [yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()]
    for name, (value, source) in chosen.sources.items():
        lines.append(f"# {name}: {value}   <- {source}")
    return "\n".join(lines)


def _first_look(command: Command, prog: str, argv: Sequence[str]) -> argparse.Namespace:
    """Find the options that decide the defaults of the others."""
    parser = Parser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--help-all", action="store_true")
    if command.presets:
        parser.add_argument("--preset", default="")
        parser.add_argument("--env", default="")
    for name in _adapters(command.settings):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_known_args(list(argv))[0]


def add_options(parser: Any, command: Command, *, everything: bool) -> set[str]:
    """Add a command's options to a parser; return the names of those that are no settings.

    Args:
        parser: The parser.
        command: What it takes.
        everything: Let the help show all settings.
    """
    _add_common(parser, command)
    command.flags(parser)
    flags = {option.lstrip("-").replace("-", "_") for option in parser.options}
    _add_settings(parser, command, everything=everything)
    return flags


def _add_common(parser: Any, command: Command) -> None:
    parser.add_argument("--help-all", action="store_true", help="show all options and exit")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML or JSON file with settings, as --dry-run prints them; repeatable",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    for name, values in _adapters(command.settings).items():
        told = ", ".join(f"{key} {value}" for key, value in values.items())
        parser.add_argument(
            f"--{name}",
            action="store_true",
            help=f"train adapters only; short for these settings of every training: {told}",
        )


def _add_settings(parser: Any, command: Command, *, everything: bool) -> None:
    for setting, option in command.pairs.items():
        parser.add_argument(
            f"--{option}",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"one value of --{setting.replace('_', '-')}; VALUE is read as JSON if it is "
            "JSON, as text otherwise; repeatable",
        )
    for item in fields_of(command.settings):
        shown = everything or command.main is None or _is_main(item.name, command.main)
        text = item.help + (f" (default: {item.default})" if _told(item.default) else "")
        option = _option(command, item)
        details = _details(item, option)
        if item.name == "preset":
            text = "begin with the values of a preset, see docs/cli.md (default: custom, none)"
            details["metavar"] = "{" + ",".join(PRESETS) + "}"
        parser.add_argument(
            f"--{option}",
            type=item.type,
            default=item.default,
            help=text.replace("%", "%%") if shown else argparse.SUPPRESS,
            **details,
        )


def _option(command: Command, item: SettingField) -> str:
    """Return the name of a setting's option, without its dashes."""
    return command.names.get(item.name, item.name.replace("_", "-"))


def _details(item: SettingField, option: str) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if option.replace("-", "_") != item.name:
        details["dest"] = item.name
    if item.choices:
        details["metavar"] = "{" + ",".join(item.choices) + "}"
    else:
        kinds = [kind for kind in get_args(item.type) if kind in _METAVARS] or [item.type]
        if kinds[0] in _METAVARS:
            details["metavar"] = _METAVARS[kinds[0]]
        elif isinstance(item.default, dict):
            details["metavar"] = "JSON"
    return details


def _may_be_none(item: SettingField) -> bool:
    """Whether the word None means no value, as it cannot where any text is a value."""
    kinds = get_args(item.type)
    return type(None) in kinds and str not in kinds


def _told(default: Any) -> bool:
    return default not in ("", None) and default != {}


def _is_main(name: str, main: Set[str]) -> bool:
    part, _, last = name.rpartition(".")
    return name in main or (bool(part) and not part.startswith("base") and last in _MAIN_OF_PARTS)


def _adapters(settings: type) -> dict[str, dict[str, Any]]:
    """Return the short forms, but for those that are settings of their own."""
    names = {item.name for item in fields_of(settings)}
    if not trainings_of(settings):
        return {}
    return {name: values for name, values in ADAPTERS.items() if name not in names}


def _checked(
    jsonargparse: Any, command: Command, prog: str, found: Mapping[str, Sourced], flags: set[str]
) -> dict[str, Any]:
    """Return the values of files with the types of their settings."""
    kinds = {item.name: item for item in fields_of(command.settings)}
    for name, (value, source) in found.items():
        empty = name in kinds and type(None) not in get_args(kinds[name].type)
        if value is None and empty:
            raise DataError(f"{source}: expected a value of {name}, got null")
    values = {
        name: None if _may_be_none(kinds[name]) and is_none(item.value) else item.value
        for name, item in found.items()
        if name in kinds
    }
    parser = generated_parser(jsonargparse, prog=prog)
    for name in values:
        item = kinds[name]
        parser.add_argument(f"--{name.replace('_', '-')}", type=item.type, default=item.default)
    read = parser.parse_object(nested(values), defaults=False)
    others = {name: item.value for name, item in found.items() if name in flags}
    return {**others, **{name: read[name] for name in values}}


def _sources(
    settings: type, values: Mapping[str, Any], found: Mapping[str, Sourced]
) -> Iterator[tuple[str, Sourced]]:
    """Yield what is no default, and where it comes from."""
    for item in fields_of(settings):
        value = values[item.name]
        before = found.get(item.name)
        if before is not None and before.value == value:
            if item.name != "preset":
                yield item.name, before
        elif before is not None or value != item.default:
            yield item.name, Sourced(value, "the command line")


def _get(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings
