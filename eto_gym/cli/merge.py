"""`eto-gym merge ADAPTER OUT`: put a trained adapter into its base, for tools that know neither."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "adapter", type=Path, metavar="ADAPTER", help="folder that training with LoRA wrote"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder of the whole model")


def run(args: argparse.Namespace) -> int:
    """Merge and write."""
    from eto_gym.trainers.model.models import merge_adapter, quiet_libraries

    with quiet_libraries():
        merge_adapter(args.adapter, args.out)
    print(f"{args.out.resolve()}")
    return 0
