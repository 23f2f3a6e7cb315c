"""The command `eto-gym data build webshop`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm.auto import tqdm

from eto_gym.envs.webshop.catalog.build import build_catalog
from eto_gym.envs.webshop.store import read_manifest
from eto_gym.errors import EtoGymError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--products", type=Path, required=True, metavar="FILE", help="items_shuffle.json")
    add("--attributes", type=Path, required=True, metavar="FILE", help="items_ins_v2.json")
    add("--goals", type=Path, metavar="FILE", help="items_human_ins.json (default: no human goals)")
    add("--out", type=Path, required=True, metavar="FOLDER", help="index folder to write")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of prices and price limits (default: 0)",
    )
    add(
        "--tagger",
        default="rules",
        metavar="NAME",
        help="where nouns come from: rules, or spacy:MODEL; the original used "
        "spacy:en_core_web_sm, ETO spacy:en_core_web_lg (default: rules)",
    )
    add("--no-synthetic", action="store_true", help="make no synthetic goals")
    add(
        "--limit",
        type=int,
        metavar="N",
        help="read the first N product records only (default: all)",
    )


def run(args: argparse.Namespace) -> str:
    """Build the index folder behind a progress bar and return what to tell the user."""
    if args.seed < 0:  # Python's generator would read it as the seed above zero
        raise EtoGymError(f"expected --seed >= 0, got {args.seed}")
    with _Bars() as bars:
        folder = build_catalog(
            products=args.products,
            attributes=args.attributes,
            goals=args.goals,
            out=args.out,
            seed=args.seed,
            tagger=args.tagger,
            synthetic=not args.no_synthetic,
            limit=args.limit,
            progress=bars.show,
        )
    manifest = read_manifest(folder)
    goals = manifest["goals"]
    return (
        f"{manifest['products']:,} products, {goals['human']:,} human and "
        f"{goals['synthetic']:,} synthetic goals, nouns by {manifest['tagger']}.\n"
        f'gym.make("ETO/WebShop-v0", catalog="{folder}")'
    )


class _Bars:
    """One progress bar per file, in bytes."""

    def __init__(self) -> None:
        self._name = ""
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, name: str, done: int, size: int) -> None:
        """Move the bar of a file."""
        if self._bar is None or name != self._name:
            self.__exit__()
            self._name = name
            self._bar = tqdm(desc=name, total=size, unit="B", unit_scale=True, unit_divisor=1024)
        self._bar.update(done - self._bar.n)
