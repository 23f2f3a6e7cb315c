"""`eto-gym eval ENV --policy P`: play episodes and report how well they went.

`eto-gym eval --from FILE...` reports on trajectories that are there already, such as the shards of
a run.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_gym.cli.arguments import ENV_HELP, add_playing_arguments
from eto_gym.cli.playing import SCRIPTED, plan, play, settings_file, slug_of
from eto_gym.cli.terminal import printable
from eto_gym.errors import EtoGymError
from eto_gym.files import read_object, write_json
from eto_gym.registration import resolve_env_id
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.lines import decode
from eto_gym.trajectories.record import counts

if TYPE_CHECKING:
    from eto_gym.agents.evaluation.panel import PanelPart


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("env", nargs="?", metavar="ENV", help=ENV_HELP)
    add_playing_arguments(parser)
    parser.add_argument(
        "--from",
        dest="files",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="report on these trajectories, such as the shards of a run, and play nothing; "
        "repeatable",
    )
    parser.add_argument(
        "--panel",
        metavar="NAME",
        help="play the tasks of a panel (v1), which are the same for everybody; without an "
        "environment those of all, and write a submission that `eto-gym compare` reads",
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
        metavar="FILE",
        help="file of the report (default: beside the trajectories)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate; return 0 if every episode counts, 1 if not, 130 after an interrupt."""
    n = _samples(args)
    if args.panel is not None:
        return _panel(args, n)
    if args.files:
        if args.env or args.policy:
            raise EtoGymError("--from plays nothing: leave out the environment and --policy")
        _check_playing_options(args)
        trajectories = _load(args.files)
        if args.samples is None and args.best_of is None:
            n = max(Counter(t.task_id for t in trajectories).values())
        about = {**_settings(args.files), "files": [str(path) for path in args.files]}
        return _status(_report(args, trajectories, about, args.files[0], n))
    if not args.env:
        raise EtoGymError("name an environment, or trajectories by --from")
    report = _played(args, n, None)
    return 130 if report is None else _status(report)


def _panel(args: argparse.Namespace, n: int) -> int:
    """Play a panel: the part of one environment, or all of it, and then write a submission."""
    from eto_gym.agents.evaluation.panel import load_panel, part_for, submission

    if args.files:
        raise EtoGymError("--from plays nothing: leave out --panel")
    if args.env:
        report = _played(args, n, part_for(args.panel, resolve_env_id(args.env)))
        return 130 if report is None else _status(report)
    if args.out is not None or args.compare is not None:
        raise EtoGymError(
            "a whole panel makes a file for each environment: leave out --out and --compare, or "
            "name one environment"
        )
    if args.env_arg:
        raise EtoGymError("--env-arg is for one environment: name it")
    reports = []
    for part in load_panel(args.panel).values():
        print(f"## {part.env}\n", flush=True)
        report = _played(args, n, part)
        if report is None:
            return 130
        reports.append(report)
        print()
    slug = slug_of(args.policy, reports[0]["about"])
    path = args.json or Path("runs/eval") / f"panel-{args.panel}-{slug}.json"
    name = args.policy if args.policy in SCRIPTED else str(reports[0]["card"]["policy"])
    write_json(path, submission(name, args.panel, reports))
    print(f"Submission: {path}")
    return max(map(_status, reports))


def _played(args: argparse.Namespace, n: int, panel: PanelPart | None) -> dict[str, Any] | None:
    """Play, report and return the report; None after an interrupt."""
    planned = plan(args, command="eval", samples=n, panel=panel)
    if n > 1 and planned.settings.get("temperature") == 0.0:
        raise EtoGymError(
            f"{n} greedy samples of a task would be the same: give a --temperature above 0"
        )
    played = play(planned, command="eval", launcher=args.launcher)
    if played is None:
        return None
    trajectories = [decode(trajectory) for trajectory in played]
    return _report(args, trajectories, planned.settings, planned.out, n)


def _report(
    args: argparse.Namespace,
    trajectories: list[Trajectory],
    about: dict[str, Any],
    out: Path,
    n: int,
) -> dict[str, Any]:
    """Write and print the report on some trajectories, and return it."""
    from eto_gym.agents.evaluation.card import card_lines, results, score_card
    from eto_gym.agents.evaluation.report import evaluate, render
    from eto_gym.agents.evaluation.statistics import compare

    paired = None
    if args.compare is not None:
        paired = compare(_load([args.compare]), trajectories)
        if paired.episodes == 0:
            raise EtoGymError(f"{args.compare} has no episode in common with these")
        about = {**about, "compared_with": str(args.compare)}
    report = evaluate(trajectories, n=n, paired=paired)
    beside = out.with_name(f"{out.stem}.report.json")
    path = args.json if args.json is not None and (args.env or args.files) else beside
    card = score_card(trajectories, about)
    written = {"about": about, **report.to_json(), "card": card, "results": results(trajectories)}
    write_json(path, written)
    lines = [render(report), "", *card_lines(card), "", f"Trajectories: {out}", f"Report: {path}"]
    print(printable("\n".join(lines)))
    return {**written, "errors": report.overall.errors}


def _status(report: dict[str, Any]) -> int:
    return 0 if all(map(counts, report["errors"])) else 1


def _check_playing_options(args: argparse.Namespace) -> None:
    """Refuse what says how to play, beside --from.

    Raises:
        EtoGymError: It names the options.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_playing_arguments(parser)
    # How many samples of a task there are says what is reported of them.
    given = [
        action.option_strings[0]
        for action in parser._actions
        if action.dest != "samples" and getattr(args, action.dest) != action.default
    ]
    if given:
        raise EtoGymError(f"--from plays nothing: leave out {', '.join(given)}")


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
        read_object(
            path,
            remedy="put it back, or remove it, and the report does not say how they were made",
        )
        for path in map(settings_file, paths)
        if path.is_file()
    ]
    if len(told) < len(paths):
        return {}
    return {name: v for name, v in told[0].items() if all(t.get(name) == v for t in told)}


def _load(paths: list[Path]) -> list[Trajectory]:
    """Return the last trajectory of every episode in the files.

    Within a file, a retry follows the error that it replaces. Nothing else takes the place of an
    episode: neither another policy's, nor one of another file.

    Raises:
        EtoGymError: There is no such file, an episode stands in two files or is of two policies, or
            there is none at all.
    """
    loaded: dict[tuple[str, int], tuple[Path, Trajectory]] = {}
    for path in {path.resolve(): path for path in paths}.values():
        if path.is_dir():
            raise EtoGymError(f"{path} is a folder: name files of trajectories")
        if not path.is_file():
            raise EtoGymError(f"there is no file {path}")
        for trajectory in TrajectoryStore(path).load():
            other, earlier = loaded.get(trajectory.key, (path, trajectory))
            if other != path or earlier.policy != trajectory.policy:
                raise EtoGymError(_twice(earlier, other, trajectory, path))
            loaded[trajectory.key] = (path, trajectory)
    if not loaded:
        raise EtoGymError(f"no trajectory in {', '.join(map(str, paths))}")
    return [trajectory for _, trajectory in loaded.values()]


def _twice(earlier: Trajectory, other: Path, trajectory: Trajectory, path: Path) -> str:
    """Say where an episode stands that is there twice, and what reports on both."""
    where = f"both {other} and {path} hold" if other != path else f"{path} holds twice"
    policies = f"{earlier.policy!r:.60} and {trajectory.policy!r:.60}"
    by = f" (of the policies {policies})" if earlier.policy != trajectory.policy else ""
    return (
        f"{where} task {trajectory.task_id!r:.80}, sample {trajectory.sample}{by}: one report "
        "counts an episode once. `eto-gym compare FILE FILE` shows two runs side by side"
    )
