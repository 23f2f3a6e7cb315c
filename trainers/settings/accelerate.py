"""`eto-gym data accelerate`: configurations for `accelerate launch` that come with the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from eto_gym.errors import unknown_name

FOLDER = Path(__file__).with_name("accelerate_files")
"""Where they lie, in a checkout (as `configs/accelerate` too) and in an installation."""


def accelerate_names() -> list[str]:
    """Return the names of the configurations."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def accelerate_file(name: str) -> Path:
    """Return the file of a configuration.

    Raises:
        UnknownNameError: There is no such configuration.
    """
    if name not in accelerate_names():
        raise unknown_name("a configuration for accelerate", name, accelerate_names())
    return FOLDER / f"{name}.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="print the path of this one: accelerate launch --config_file "
        '"$(eto-gym data accelerate ddp)" -m eto_gym.cli.main train ... '
        "(without a name: list them)",
    )


def run(args: argparse.Namespace) -> str:
    """Return the path of one, or the list."""
    if args.name is not None:
        return str(accelerate_file(args.name))
    lines = []
    for name in accelerate_names():
        first = accelerate_file(name).read_text(encoding="utf-8").partition("\n")[0]
        lines.append(f"{name:<7}{first.lstrip('# ')}")
    return "\n".join(lines)
