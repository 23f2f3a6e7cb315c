"""`eto-gym bench ENV`: measure rollouts over the number of environments.

Without a policy, environments are played with random admissible actions. With `--policy` the
rollout engine is measured too, and, in the same run, the scheme of the original: one conversation
at a time, whose whole prompt the model computes anew in every turn.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_gym.cli.arguments import (
    ENV_HELP,
    add_env_arguments,
    add_history,
    add_prompt_style,
    add_seed,
    add_temperature,
    env_arguments,
)
from eto_gym.cli.playing import SCRIPTED, read_policy
from eto_gym.errors import EtoGymError, require
from eto_gym.files import replacing, write_json
from eto_gym.history import check_history
from eto_gym.lookup import tasks
from eto_gym.registration import resolve_env_id

if TYPE_CHECKING:
    from eto_gym.agents.rollout.slot import Episode
    from eto_gym.cli.throughput import Scheme, Throughput


RENAMED = {"--num-envs": "--slots"}
"""Old option -> the option that does the same now."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("env", metavar="ENV", help=ENV_HELP)
    add_env_arguments(parser)
    _add_measurements(parser)
    _add_policy(parser)
    _add_processes(parser)
    add_seed(parser)
    _add_files(parser)


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slots",
        type=int,
        nargs="+",
        action="extend",
        dest="num_envs",
        metavar="N",
        help="environments at once, one measurement each (default: 1 16 64); repeatable",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=20_000,
        metavar="N",
        help="steps of the environments alone, per measurement; 0: leave it out (default: 20,000)",
    )


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        default=None,
        metavar="POLICY",
        help="as for `eto-gym eval`: a model, endpoint:URL, expert, ... (default: environments "
        "alone)",
    )
    parser.add_argument(
        "--policy-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="further argument of the policy, as for `eto-gym eval`; repeatable",
    )
    add_temperature(parser)
    add_prompt_style(parser)
    add_history(parser)
    parser.add_argument(
        "--episodes",
        type=int,
        default=64,
        metavar="N",
        help="episodes of the policy (default: 64)",
    )
    parser.add_argument(
        "--baseline-episodes",
        type=int,
        default=8,
        metavar="N",
        help="how many of them the original's scheme plays too; 0: leave it out (default: 8)",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        action="extend",
        metavar="N",
        help="processes with a policy each, over which the environments of the policy's rollouts "
        "are spread; the start of several is part of the time (default: 1); repeatable",
    )
    parser.add_argument(
        "--env-workers",
        type=int,
        default=0,
        metavar="N",
        help="processes for the environments of the policy's rollouts (default: 0, none beside the "
        "policy's own)",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        type=Path,
        default=None,
        metavar="FILE",
        help="write the figures as JSON, too (default: print them only)",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=None,
        metavar="FILE",
        help='draw the figures, too: .png, .svg or .pdf (extra "bench")',
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and write what else was asked for."""
    # Values extend a default, where there is one.
    args.num_envs = args.num_envs or [1, 16, 64]
    args.workers = args.workers or [1]
    _check(args)
    env_id = resolve_env_id(args.env)
    tasks(env_id, **env_arguments(args, env_id))  # refuses what cannot be made
    rows = []
    if args.steps:
        rows += _environments(args, env_id)
    if args.policy is not None:
        rows += _policies(args, env_id)
    notes = summary(rows)
    print("\n".join([f"# eto-gym {' '.join(sys.argv[1:])}", f"# {machine()}", "", *render(rows)]))
    print("\n".join(["", *notes]) if notes else "")
    if args.json is not None:
        record = {
            "command": ["eto-gym", *sys.argv[1:]],
            "machine": machine(),
            "rows": [_record(row) for row in rows],
            "summary": notes,
        }
        write_json(args.json, record)
    if args.plot is not None:
        draw(rows, args.plot, title=env_id)
    return 1 if any(row.errors for row in rows) else 0


def _check(args: argparse.Namespace) -> None:
    if min(*args.num_envs, *args.workers, args.episodes) < 1:
        raise EtoGymError("expected --slots, --workers and --episodes >= 1")
    if min(args.steps, args.baseline_episodes, args.env_workers) < 0:
        raise EtoGymError("expected --steps, --baseline-episodes and --env-workers >= 0")
    if args.seed < 0:
        raise EtoGymError(f"expected --seed >= 0, got {args.seed}")
    if not args.steps and args.policy is None:
        raise EtoGymError("nothing to measure: --steps is 0 and there is no --policy")
    if args.plot is not None:
        require("matplotlib", feature="eto-gym bench --plot", extra="bench")


def _environments(args: argparse.Namespace, env_id: str) -> list[Throughput]:
    from eto_gym.cli.throughput import in_own_process, measure_environment

    kwargs = env_arguments(args, env_id)
    return [
        in_own_process(
            measure_environment, env_id, kwargs, num_envs=num, steps=args.steps, seed=args.seed
        )
        for num in args.num_envs
    ]


def _policies(args: argparse.Namespace, env_id: str) -> list[Throughput]:
    from eto_gym.agents.rollout.slot import plan_episodes
    from eto_gym.agents.rollout.spec import RolloutSpec
    from eto_gym.cli.throughput import in_own_process, measure_policy

    check_history(args.history)
    make_policy, policy = read_policy(args)
    kwargs = env_arguments(args, env_id)
    if args.policy in SCRIPTED:
        kwargs.setdefault("admissible_actions", True)
    ids = tasks(env_id, **kwargs).shuffle(args.seed).ids
    samples = math.ceil(args.episodes / len(ids))
    by_task = plan_episodes(ids, samples=samples, seed=args.seed)
    episodes = sorted(by_task, key=lambda episode: episode.sample)[: args.episodes]

    def measured(spec: RolloutSpec, chosen: list[Episode], scheme: Scheme) -> Throughput:
        return in_own_process(measure_policy, spec, chosen, scheme=scheme)

    spec = RolloutSpec(
        env_id,
        make_policy,
        env_kwargs=kwargs,
        prompt_style=args.prompt_style,
        env_workers=args.env_workers,
        history=args.history,
    )
    rows = [
        measured(replace(spec, slots=num, workers=workers), episodes, "engine")
        for workers in args.workers
        for num in args.num_envs
    ]
    local = args.policy not in SCRIPTED and not policy["policy"].startswith("endpoint:")
    if local and args.baseline_episodes:
        uncached, _ = read_policy(args, keep_cache=False)
        alone = replace(spec, make_policy=uncached, slots=1, env_workers=0)
        rows.append(measured(alone, episodes[: args.baseline_episodes], "one at a time"))
    return rows


def render(rows: Sequence[Throughput]) -> list[str]:
    """Lay out the measurements as a table."""
    from eto_gym.agents.evaluation.report import table

    header = ["scheme", "processes", "envs", "episodes", "steps", "wall s", "CPU s", "steps/s"]
    header += ["episodes/h", "prefilled", "decoded", "memory MB"]
    return table(
        header,
        [
            [
                row.scheme,
                str(row.processes),
                str(row.num_envs),
                str(row.episodes) + (f" ({row.errors} errors)" if row.errors else ""),
                str(row.steps),
                f"{row.wall_s:.2f}",
                f"{row.cpu_s:.2f}",
                f"{row.steps_per_second:,.0f}",
                f"{row.episodes_per_hour:,.0f}",
                f"{row.prefilled_tokens:,}" if row.decoded_tokens else "-",
                f"{row.decoded_tokens:,}" if row.decoded_tokens else "-",
                f"{row.memory_mb:.0f}",
            ]
            for row in rows
        ],
    )


def summary(rows: Sequence[Throughput]) -> list[str]:
    """Compare the engine's fastest measurement with the original's scheme, if both are there."""
    engine = [row for row in rows if row.scheme == "engine"]
    baseline = next((row for row in rows if row.scheme == "one at a time"), None)
    if not engine or baseline is None:
        return []
    best = max(engine, key=lambda row: row.episodes_per_hour)
    per_step = [
        f"{row.prefilled_tokens / row.steps:.1f} prefilled and {row.decoded_tokens / row.steps:.1f}"
        for row in (best, baseline)
    ]
    return [
        f"The engine with {best.num_envs} environments in {best.processes} "
        f"{'process' if best.processes == 1 else 'processes'} beside one conversation at a time: "
        f"{best.episodes_per_hour / baseline.episodes_per_hour:.1f} times the episodes per hour, "
        f"{best.steps_per_second / baseline.steps_per_second:.1f} times the steps per second.",
        f"Tokens per step: {per_step[0]} decoded, instead of {per_step[1]} decoded.",
    ]


def _record(row: Throughput) -> dict[str, Any]:
    rates = {"steps_per_s": row.steps_per_second, "episodes_per_h": row.episodes_per_hour}
    record = {**asdict(row), **rates}
    unknown = math.isnan(row.memory_mb)
    return {**record, "memory_mb": None if unknown else row.memory_mb}


def machine() -> str:
    """Name the machine, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, Python {platform.python_version()}, {platform.system()}"


def draw(rows: Sequence[Throughput], path: Path, *, title: str) -> None:
    """Plot steps per second, episodes per hour and memory over the number of environments.

    Raises:
        EtoGymError: matplotlib writes no such kind of file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    measures: list[tuple[str, Callable[[Throughput], float]]] = [
        ("steps per second", lambda row: row.steps_per_second),
        ("episodes per hour", lambda row: row.episodes_per_hour),
        ("peak memory in MB", lambda row: row.memory_mb),
    ]
    for panel, (label, value) in zip(panels, measures, strict=True):
        for line in dict.fromkeys((row.scheme, row.processes) for row in rows):
            of_line = [row for row in rows if (row.scheme, row.processes) == line]
            chosen = sorted(of_line, key=lambda row: row.num_envs)
            scheme = line[0] if line[1] == 1 else f"{line[0]}, {line[1]} processes"
            x, y = [row.num_envs for row in chosen], [value(row) for row in chosen]
            if scheme == "one at a time":
                panel.axhline(y[0], color="gray", linestyle="--", label=scheme)
            else:
                panel.plot(x, y, marker="o", label=scheme)
        panel.set(xscale="log", xlabel="environments", ylabel=label, ylim=(0, None))
        ticks = sorted({row.num_envs for row in rows})
        panel.set_xticks(ticks, labels=[str(tick) for tick in ticks])
        panel.minorticks_off()
    panels[0].legend()
    figure.suptitle(title)
    try:
        with replacing(path) as partial:
            figure.savefig(partial, format=path.suffix.removeprefix(".") or "png")
    except ValueError as err:  # an unknown kind of file
        raise EtoGymError(f"could not draw {path}: {err}") from err
