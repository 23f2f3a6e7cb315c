"""`eto-gym train METHOD`: train a policy; the options are generated from the settings classes."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eto_gym.errors import check_choice, require

METHODS = ("eto", "sb3")


def main(argv: Sequence[str]) -> int:
    """Run one training method."""
    argv = list(argv)
    if not argv or argv[0].startswith("-"):
        print(f"usage: eto-gym train {{{','.join(METHODS)}}} [options]   (--help after the method)")
        return 0 if argv and argv[0] in {"-h", "--help"} else 2
    check_choice("method", argv[0], METHODS)
    if argv[0] == "sb3":
        from eto_gym.cli import train_sb3

        return train_sb3.main(argv[1:])
    return _eto(argv[1:])


def _eto(argv: Sequence[str]) -> int:
    jsonargparse = require("jsonargparse", feature="eto-gym train", extra="train")
    from eto_gym.trainers.eto_settings import ETOSettings
    from eto_gym.trainers.presets import ADAPTERS, PRESETS, preset_sources, preset_values

    parser = jsonargparse.ArgumentParser(
        prog="eto-gym train eto",
        description="Run the ETO loop: expert trajectories, SFT, exploration, pairs, DPO, and an "
        "evaluation of every policy.",
    )
    parser.add_argument("--config", action="config", help="YAML or JSON file with settings")
    parser.add_argument("--out", default="", help="run folder; a run found there is continued")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    for name in ADAPTERS:
        parser.add_argument(f"--{name}", action="store_true", help=_adapter_help(name))
    parser.add_class_arguments(ETOSettings, as_group=False)
    _add_help(parser, ETOSettings)
    chosen, env = _value_of("--preset", argv), _value_of("--env", argv) or ETOSettings.env
    if chosen:
        parser.set_defaults(_flatten(preset_values(chosen, env), ETOSettings))
    for name, values in ADAPTERS.items():
        if f"--{name}" in argv:
            parser.set_defaults(_flatten({"sft": values, "dpo": values}, ETOSettings))
    options = parser.parse_args(argv)
    built = parser.instantiate_classes(options)
    names = {item.name for item in dataclasses.fields(ETOSettings)}
    settings = ETOSettings(**{name: built[name] for name in names})
    if options.dry_run:
        print(parser.dump(options, skip_none=False))
        for name, value, source in preset_sources(chosen, env) if chosen else ():
            print(f"# {name}: {value}   <- {source}")
        return 0
    check_choice("preset", settings.preset, [*PRESETS, "custom"])
    from eto_gym.trainers.eto import ETOLoop
    from eto_gym.trainers.report import render

    out = Path(options.out or f"runs/eto-{settings.env.split('/')[-1]}-{settings.preset}".lower())
    report = ETOLoop(settings, out).run()
    print(f"\n{render(report)}\n\nRun folder: {out.resolve()}")
    return 0


def _value_of(option: str, argv: Sequence[str]) -> str:
    """Return the value of an option that sets the defaults which other options override."""
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return ""


def _adapter_help(name: str) -> str:
    from eto_gym.trainers.presets import ADAPTERS

    values = ", ".join(f"{key} {value}" for key, value in ADAPTERS[name].items())
    return f"train adapters only; short for these settings of sft and dpo: {values}"


def _flatten(values: dict[str, Any], settings: Any, prefix: str = "") -> dict[str, Any]:
    """Name the values of nested settings with dots; a setting that is a dict stays one."""
    kinds = typing.get_type_hints(settings)
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(kinds.get(name)):
            flat.update(_flatten(value, kinds[name], f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _add_help(parser: Any, settings: type) -> None:
    """Give every option the help that stands beside its field, with the paper's value."""
    texts = dict(_help_texts(settings))
    for action in parser._actions:
        if text := texts.get(action.dest):
            action.help = text.replace("%", "%%")


def _help_texts(settings: type, prefix: str = "") -> list[tuple[str, str]]:
    texts = []
    for item in dataclasses.fields(settings):
        if "help" in item.metadata:
            paper = item.metadata.get("paper")
            text = item.metadata["help"] + (f" (paper: {paper})" if paper else "")
            texts.append((prefix + item.name, text))
        nested = item.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            texts += _help_texts(nested, f"{prefix}{item.name}.")
    return texts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
