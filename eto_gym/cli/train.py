"""`eto-gym train METHOD`: train a policy; the options are generated from the settings classes."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eto_gym.errors import check_choice, require


@dataclass(frozen=True)
class LoopMethod:
    """A method that plays in an environment, in a run folder of its own.

    Attributes:
        module: Holds the settings class, the loop and `PRESETS`; imported when it is asked for.
        settings: Name of the settings class.
        loop: Name of the loop.
        help: What it does.
        loop_module: Holds the loop, where that is another module.
    """

    module: str
    settings: str
    loop: str
    help: str
    loop_module: str = ""


LOOPS = {
    "eto": LoopMethod(
        "eto_gym.trainers.eto_settings",
        "ETOSettings",
        "ETOLoop",
        "Run the ETO loop: expert trajectories, SFT, exploration, pairs, DPO, and an evaluation "
        "of every policy.",
        loop_module="eto_gym.trainers.eto",
    ),
    "rft": LoopMethod(
        "eto_gym.trainers.rft",
        "RFTSettings",
        "RFTLoop",
        "Rejection-sampled fine-tuning: SFT on the experts' and the agent's own successes.",
    ),
    "self-play": LoopMethod(
        "eto_gym.trainers.self_play",
        "SelfPlaySettings",
        "SelfPlayLoop",
        "Learn without an expert: SFT on own successes, DPO on own successes against failures.",
    ),
    "step-dpo": LoopMethod(
        "eto_gym.trainers.step_dpo",
        "StepDPOSettings",
        "StepDPOLoop",
        "Step-level DPO: alternative steps from snapshots, valued by Monte-Carlo rollouts.",
    ),
    "mixture": LoopMethod(
        "eto_gym.trainers.mixture",
        "MixtureLoopSettings",
        "MixtureLoop",
        "Outcome DPO, step DPO and SFT in one loss, as in IPR.",
    ),
    "ppo": LoopMethod(
        "eto_gym.trainers.ppo",
        "PPOLoopSettings",
        "PPOLoop",
        "PPO after SFT: clipped, with a value head and advantages per turn.",
    ),
    "grpo": LoopMethod(
        "eto_gym.trainers.group",
        "GroupLoopSettings",
        "GRPOLoop",
        "GRPO after SFT, by TRL: several episodes of a task are compared with each other.",
    ),
    "rloo": LoopMethod(
        "eto_gym.trainers.group",
        "GroupLoopSettings",
        "RLOOLoop",
        "RLOO after SFT, by TRL: each episode against the mean of the others of its task.",
    ),
}
"""Methods that play; each evaluates what it trains."""

FILES = ("sft", "dpo")
"""Methods that train on a file."""

METHODS = (*FILES, *LOOPS)


def main(argv: Sequence[str]) -> int:
    """Run one training method."""
    argv = list(argv)
    if not argv or argv[0].startswith("-"):
        print(f"usage: eto-gym train {{{','.join(METHODS)}}} [options]   (--help after the method)")
        return 0 if argv and argv[0] in {"-h", "--help"} else 2
    method = check_choice("method", argv[0], METHODS)
    if method in LOOPS:
        return _play(method, argv[1:])
    from eto_gym.cli.train_files import train_on_file

    return train_on_file(method, argv[1:])


def _play(method: str, argv: Sequence[str]) -> int:
    """Run a method that plays in an environment."""
    entry = LOOPS[method]
    parser = new_parser(method, entry.help)
    module = importlib.import_module(entry.module)
    settings_class, presets = getattr(module, entry.settings), module.PRESETS
    parser.add_argument("--out", default="", help="run folder; a run found there is continued")
    parser.add_class_arguments(settings_class, as_group=False)
    add_help(parser, settings_class)
    if chosen := _preset_of(argv):
        from eto_gym.trainers.loop_settings import preset_values

        parser.set_defaults(_flatten(preset_values(chosen, presets)))
    options = parser.parse_args(argv)
    settings = build_settings(parser, options, settings_class)
    if options.dry_run:
        print(parser.dump(options, skip_none=False))
        return 0
    check_choice("preset", settings.preset, [*presets, "custom"])
    from eto_gym.trainers.report import render

    loop = getattr(importlib.import_module(entry.loop_module or entry.module), entry.loop)
    env = settings.env.split("/")[-1].split(":")[-1]
    out = Path(options.out or f"runs/{method}-{env}-{settings.preset}".lower())
    report = loop(settings, out).run()
    print(f"\n{render(report)}\n\nRun folder: {out.resolve()}")
    return 0


# --- what the methods share ----------------------------------------------------------------------


def new_parser(method: str, description: str) -> Any:
    """Return a parser with the options that every method has."""
    jsonargparse = require("jsonargparse", feature="eto-gym train", extra="train")
    parser = jsonargparse.ArgumentParser(
        prog=f"eto-gym train {method}", description=description.replace("%", "%%")
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


def _preset_of(argv: Sequence[str]) -> str:
    """Return the value of --preset, which sets the defaults that other options override."""
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith("--preset="):
            return word.removeprefix("--preset=")
    return ""


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
