"""`eto-gym eval ENV --policy P`: play episodes and report how well they went.

`eto-gym eval --from FILE...` reports on trajectories that are there already, such as the shards of
a run.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from eto_gym.cli.playing import add_playing_arguments, plan, play, settings_file
from eto_gym.errors import EtoGymError, require
from eto_gym.files import write_json
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.lines import decode


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "env", nargs="?", help="scienceworld, alfworld, webshop, or a registered id"
    )
    add_playing_arguments(parser)
    parser.add_argument(
        "--from",
        dest="files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="report on these trajectories and play nothing",
    )
    parser.add_argument(
        "--best-of",
        type=int,
        default=None,
        metavar="N",
        help="play N samples of each task; report the best, the mean and pass@k",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        default=None,
        metavar="FILE",
        help="trajectories of another policy on the same tasks, for a paired test",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=None,
        help="file of the report (default: beside the trajectories)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate; return 0 if every episode could be played out, 1 if not, 130 after an interrupt."""
    require("scipy", feature="eto-gym eval", extra="openai")
    from eto_gym.agents.evaluation.card import card_lines, results, score_card
    from eto_gym.agents.evaluation.report import evaluate, render
    from eto_gym.agents.evaluation.statistics import compare

    n = _samples(args)
    about: dict[str, Any]
    if args.files:
        if args.env or args.policy:
            raise EtoGymError("--from plays nothing: leave out the environment and --policy")
        trajectories = _load(args.files)
        if args.samples is None and args.best_of is None:
            n = max(Counter(t.task_id for t in trajectories).values())
        about = {**_settings(args.files), "files": [str(path) for path in args.files]}
        out = args.files[0]
    else:
        if not args.env:
            raise EtoGymError("name an environment, or trajectories by --from")
        planned = plan(args, command="eval", samples=n)
        if n > 1 and planned.settings.get("temperature") == 0.0:
            raise EtoGymError(
                f"{n} greedy samples of a task would be the same: give a --temperature above 0"
            )
        played = play(planned, command="eval", launcher=args.launcher)
        if played is None:
            return 130
        trajectories = [decode(trajectory) for trajectory in played]
        about, out = planned.settings, planned.out
    paired = None
    if args.compare is not None:
        paired = compare(_load([args.compare]), trajectories)
        if paired.episodes == 0:
            raise EtoGymError(f"{args.compare} has no episode in common with these")
        about = {**about, "compared_with": str(args.compare)}
    report = evaluate(trajectories, n=n, paired=paired)
    path = args.json or out.with_name(f"{out.stem}.report.json")
    card = score_card(trajectories, about)
    write_json(
        path,
        {"about": about, **report.to_json(), "card": card, "results": results(trajectories)},
    )
    lines = [render(report), "", *card_lines(card), "", f"Trajectories: {out}", f"Report: {path}"]
    print("\n".join(lines))
    return 1 if report.overall.errors else 0


def _samples(args: argparse.Namespace) -> int:
    if args.best_of is not None:
        if args.best_of < 1:
            raise EtoGymError(f"expected --best-of >= 1, got {args.best_of}")
        if args.samples not in (None, args.best_of):
            raise EtoGymError("--samples and --best-of both say how many samples a task gets")
        return int(args.best_of)
    return 1 if args.samples is None else int(args.samples)


def _settings(paths: list[Path]) -> dict[str, Any]:
    """Return what the settings beside some files have in common; they say how they were made."""
    told = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in map(settings_file, paths)
        if path.is_file()
    ]
    if len(told) < len(paths):
        return {}
    return {name: v for name, v in told[0].items() if all(t.get(name) == v for t in told)}


def _load(paths: list[Path]) -> list[Trajectory]:
    """Return the last trajectory of every episode in the files."""
    from eto_gym.agents.rollout.collect import latest

    loaded: dict[tuple[str, int], Trajectory] = {}
    for path in paths:
        if not path.is_file():
            raise EtoGymError(f"there is no file {path}")
        loaded |= latest(TrajectoryStore(path).load())
    if not loaded:
        raise EtoGymError(f"no trajectory in {', '.join(map(str, paths))}")
    return list(loaded.values())
