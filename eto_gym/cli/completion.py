"""`eto-gym completion SHELL`: a script by which a shell completes commands, options and choices.

The script holds all words itself, so that pressing the tab key starts no Python.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from eto_gym.cli.main import COMMANDS
from eto_gym.cli.parsing import Parser
from eto_gym.errors import require
from eto_gym.registration import short_names

SHELLS = ("bash", "zsh")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help="the shell that is to complete; docs/cli.md says where the script goes",
    )


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    shtab = require("shtab", feature="eto-gym completion", extra="completion")
    print(shtab.complete(all_commands(shtab), shell=args.shell))
    return 0


def all_commands(shtab: Any) -> argparse.ArgumentParser:
    """Return one parser with every command and its options."""
    kind = _listing(shtab)
    top = kind(prog="eto-gym")
    commands = top.add_subparsers(parser_class=kind)
    for name, (module_name, summary) in sorted(COMMANDS.items()):
        parser = commands.add_parser(name, help=summary)
        module = importlib.import_module(module_name)
        if hasattr(module, "configure"):
            module.configure(parser)
        else:
            _add_methods(parser, kind)
    return top


def _add_methods(parser: Any, kind: type[Parser]) -> None:
    """Add the methods of `eto-gym train` with their options."""
    from eto_gym.cli.train import METHODS, command_of
    from eto_gym.cli.train.options import add_options

    methods = parser.add_subparsers(parser_class=kind)
    for method in METHODS:
        command = command_of(method)
        summary = command.description.split(":")[0].split(";")[0]
        add_options(methods.add_parser(method, help=summary), command, everything=True)


def _listing(shtab: Any) -> type[Parser]:
    """Return a class of parsers that know what the values of their options are."""

    class Listing(Parser):
        def add_argument(self, *names: Any, **details: Any) -> Any:
            kind, metavar = details.pop("type", None), str(details.get("metavar", ""))
            is_file = kind is Path or metavar in ("FILE", "FOLDER")
            if metavar.startswith("{"):
                details["choices"] = metavar[1:-1].split(",")
            elif kind is bool:
                details["choices"] = ["true", "false"]
            elif names[0] in ("env", "--env"):
                details["choices"] = short_names()
            action = super().add_argument(*names, **details)
            if is_file:
                action.complete = shtab.FILE
            return action

    return Listing
