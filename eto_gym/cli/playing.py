"""What `rollout` and `eval` share: what to play, with which policy, where to, and how it went."""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_gym.cli.arguments import choose_tasks, env_arguments, parse_pairs
from eto_gym.errors import EtoGymError, unknown_name
from eto_gym.files import owned, write_json
from eto_gym.history import FULL, STATE_VERSION, check_room
from eto_gym.lookup import tasks
from eto_gym.registration import resolve_env_id
from eto_gym.tasks import TaskSet
from eto_gym.trajectories import PlayedTrajectory, TrajectoryStore
from eto_gym.trajectories.text_files import read_text, split_lines
from eto_gym.urls import read_addresses

if TYPE_CHECKING:
    from eto_gym.agents.evaluation.panel import PanelPart
    from eto_gym.agents.policy import Policy
    from eto_gym.agents.rollout.slot import Episode
    from eto_gym.agents.rollout.spec import RolloutSpec
    from eto_gym.trajectories import ErrorKind

SCRIPTED = ("expert", "player", "random")


@dataclass(frozen=True)
class Plan:
    """What the options amount to.

    Attributes:
        spec: What plays.
        episodes: What is played.
        out: Where the trajectories go.
        settings: What decides the result of an episode; kept beside `out`.
        label: Label of the progress bar.
        samples: Episodes per task.
    """

    spec: RolloutSpec
    episodes: list[Episode]
    out: Path
    settings: dict[str, Any]
    label: str
    samples: int


def plan(
    args: argparse.Namespace, *, command: str, samples: int, panel: PanelPart | None = None
) -> Plan:
    """Turn the options into a plan.

    Args:
        args: The options of `add_playing_arguments`, and `env`.
        command: Name of the command; where trajectories go by default.
        samples: Episodes per task.
        panel: The tasks to play instead of those that the options choose.
    """
    from eto_gym.agents.rollout.engine import RetryPolicy
    from eto_gym.agents.rollout.slot import plan_episodes
    from eto_gym.agents.rollout.spec import RolloutSpec

    _check_numbers(args, samples)
    check_room(args.history, args.max_context)
    make_policy, policy = read_policy(args)
    env_id = panel.env if panel else resolve_env_id(args.env)
    env_kwargs = env_arguments(args, env_id)
    if panel:
        env_kwargs = panel.settle(env_kwargs)
    if policy["policy"] in ("random", "player"):
        env_kwargs.setdefault("admissible_actions", True)
    # Recorded, they have no effect on what is played, and are no setting of it.
    recorded = {"admissible_actions": True} if args.record_admissible else {}
    everything = tasks(env_id, **env_kwargs)
    chosen = _tasks(everything, args, panel)
    here = not args.env_workers and args.step_timeout is None  # where the environments are
    slots = args.slots or (1 if args.policy in SCRIPTED and here else 64)
    spec = RolloutSpec(
        env_id,
        make_policy,
        env_kwargs={**env_kwargs, **recorded},
        prompt_style=args.prompt_style,
        slots=max(slots, args.workers),
        workers=args.workers,
        retry=RetryPolicy(attempts=args.attempts, kinds=_retried(args, policy["policy"])),
        env_workers=args.env_workers,
        step_timeout=args.step_timeout,
        history=args.history,
        record_admissible=args.record_admissible,
        record_seconds=True,
        policy_name=args.policy if args.policy in SCRIPTED else None,
    )
    benchmark = env_id.rpartition("/")[2].lower()
    stem = f"{benchmark}-{f'panel-{panel.panel}' if panel else everything.split}"
    out = args.out or _default_out(args, command, f"{stem}-{slug_of(args.policy, policy)}")
    if "date" in policy and (begun := _recorded_date(out)):
        # The run began on another day, and goes on with the prompts of that day.
        if "date" not in parse_pairs(args.policy_arg):
            policy["date"] = begun
        make_dated: Any = make_policy
        spec = replace(spec, make_policy=functools.partial(make_dated, date=policy["date"]))
    return Plan(
        spec=spec,
        episodes=plan_episodes(chosen.ids, samples=samples, seed=args.seed),
        out=out,
        settings={
            "env": env_id,
            "env_kwargs": env_kwargs,
            "prompt_style": args.prompt_style,
            **({"history": args.history} if args.history != FULL else {}),
            **({"state_text": STATE_VERSION} if args.history.startswith("state") else {}),
            **({"panel": panel.panel} if panel else {}),
            "seed": args.seed,
            **policy,
        },
        label=f"{benchmark} {everything.split}",
        samples=samples,
    )


def _check_numbers(args: argparse.Namespace, samples: int) -> None:
    for name in ("slots", "workers", "attempts"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise EtoGymError(f"expected --{name} >= 1, got {value}")
    if args.env_workers < 0:
        raise EtoGymError(f"expected --env-workers >= 0, got {args.env_workers}")
    if samples < 1:
        raise EtoGymError(f"expected --samples >= 1, got {samples}")
    if args.step_timeout is not None and args.step_timeout <= 0:
        raise EtoGymError(f"expected --step-timeout > 0, got {args.step_timeout}")


def _retried(args: argparse.Namespace, policy: str) -> frozenset[ErrorKind]:
    """Return the kinds of errors after which an episode is played again."""
    from eto_gym.agents.rollout.engine import RetryPolicy

    if args.retry is not None:
        return frozenset(args.retry)
    kinds = RetryPolicy().kinds
    if policy.startswith("endpoint:"):  # a server may answer, or answer otherwise, the next time
        kinds |= {"policy", "format"}
    return kinds


def _default_out(args: argparse.Namespace, command: str, stem: str) -> Path:
    shard = "-shard-" + args.shard.replace("/", "-of-") if args.shard else ""
    return Path("runs") / command / f"{stem}{shard}.jsonl"


def slug_of(asked: str, settings: Mapping[str, Any]) -> str:
    """Return the name of a policy as it enters names of files.

    Args:
        asked: The policy as it was asked for, which may hold a server's password.
        settings: What describes it; of an endpoint, without a password.
    """
    named = settings["policy"] if asked.startswith("endpoint:") else asked
    return "".join(c if c.isalnum() or c in "._" else "-" for c in named).strip("-.")


def read_policy(
    args: argparse.Namespace, **more: Any
) -> tuple[Callable[[], Policy], dict[str, Any]]:
    """Return the factory that `--policy` names, and what describes it.

    Args:
        args: The options.
        more: Arguments of a model's policy that take precedence.

    Raises:
        EtoGymError: There is no such policy, or it takes no such option.
    """
    from eto_gym.agents import policies
    from eto_gym.agents.models import smollm2
    from eto_gym.agents.models.gguf import SUFFIX
    from eto_gym.agents.models.loading import read_template
    from eto_gym.agents.models.model_names import resolve_model
    from eto_gym.agents.models.template import reads_clock, run_date, template_of

    if args.policy is None:
        raise EtoGymError("--policy is missing: expert, player, random, a model, or endpoint:URL")
    options = parse_pairs(args.policy_arg)
    for name, limit in (("max_new_tokens", "max_new_tokens"), ("context", "max_context")):
        if getattr(args, limit, None) is not None:
            options[name] = getattr(args, limit)
    scripted: dict[str, Callable[[], Policy]] = {
        "expert": policies.expert_policy,
        "player": policies.player_policy,
        "random": policies.random_policy,
    }
    if args.policy in scripted:
        if options or args.temperature is not None:
            raise EtoGymError(f"the policy {args.policy!r} takes no temperature and no argument")
        return scripted[args.policy], {"policy": args.policy}
    policies.check_options(args.policy, options)
    options |= {"temperature": args.temperature or 0.0, **more}
    kind, colon, rest = args.policy.partition(":")
    if kind == "endpoint" and colon:
        return (
            functools.partial(policies.endpoint_policy, rest, **options),
            # The form that was given, but for users and passwords.
            {"policy": f"endpoint:{_public(rest)}", **options},
        )
    if re.match(r"(?i)https?://", args.policy):
        raise EtoGymError(f"a server is named as endpoint:{_public(args.policy)}")
    folder = Path(args.policy)
    if (
        "/" not in args.policy
        and args.policy != smollm2.NAME
        and folder.suffix != SUFFIX
        and not folder.exists()
    ):
        kinds = "a folder, a GGUF file, a name on the hub (OWNER/NAME), or"
        raise unknown_name(kinds, args.policy, (*SCRIPTED, smollm2.NAME))
    model = resolve_model(args.policy)
    if Path(model).exists():
        model = str(Path(model).resolve())
    given = options.get("chat_template")
    template = template_of(Path(model)) if given is None else read_template(str(given))
    if reads_clock(template) and "date_string" not in (options.get("template_kwargs") or {}):
        options.setdefault("date", run_date())
    return (
        functools.partial(policies.local_policy, model, name=args.policy, **options),
        {"policy": model, **options},
    )


def _public(base_urls: str) -> str:
    """Return the URLs of servers without users and passwords; ones that name none as they are."""
    addresses = read_addresses(base_urls)
    return ",".join(address.url for address in addresses) if "@" in base_urls else base_urls


def _tasks(everything: TaskSet, args: argparse.Namespace, panel: PanelPart | None) -> TaskSet:
    chosen = everything
    wanted = list(args.task)
    if panel is not None:
        others = [args.task_file, args.task_type, args.limit, args.shuffle_seed]
        if wanted or any(value is not None for value in others):
            raise EtoGymError(
                f"panel {panel.panel} says which tasks are played: leave out --task, --task-file, "
                "--task-type, --limit and --shuffle-seed"
            )
        wanted = list(panel.tasks)
    if args.task_file is not None:
        lines = map(str.strip, split_lines(read_text(args.task_file)))
        wanted += filter(None, lines)
    if wanted or args.task_file is not None:
        chosen = TaskSet(
            [everything.get(name) for name in dict.fromkeys(wanted)], split=everything.split
        )
    chosen = choose_tasks(chosen, args)
    if args.shard is not None:
        index, slash, count = args.shard.partition("/")
        digits = slash and index.isdecimal() and count.isdecimal() and len(args.shard) < 40
        if not (digits and int(index) < int(count)):
            raise EtoGymError(f"expected --shard I/N with I from 0 to N-1, got {args.shard!r:.80}")
        chosen = chosen.shard(int(index), int(count))
    if not chosen:
        raise EtoGymError("no task is left to play")
    return chosen


def play(plan: Plan, *, command: str, launcher: str) -> list[PlayedTrajectory] | None:
    """Play what is missing and return all trajectories, as `gather`; None after an interrupt.

    Raises:
        EtoGymError: The file belongs to another run, or the run cannot go on.
    """
    from eto_gym.agents.rollout.collect import gather
    from eto_gym.agents.rollout.launchers import get_launcher

    if plan.out.is_dir():
        raise EtoGymError(f"{plan.out} is a folder: --out names a file that episodes are added to")
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    plan.out.touch()
    with owned(plan.out):
        _check_settings(plan)
        store = TrajectoryStore(plan.out)
        try:
            return gather(
                plan.spec,
                plan.episodes,
                store=store,
                progress=plan.label,
                launcher=get_launcher(launcher),
            )
        except KeyboardInterrupt:
            kept = {t.key for t in store.load() if t.scored}
            done = sum(episode.key in kept for episode in plan.episodes)
            print(
                f"eto-gym {command}: interrupted. {plan.out} holds {done} of "
                f"{len(plan.episodes)} episodes; the same command goes on from there.",
                file=sys.stderr,
            )
            return None


def settings_file(out: Path) -> Path:
    """Return the file beside the trajectories that says how they were made."""
    return out.with_name(f"{out.stem}.settings.json")


def _recorded_date(out: Path) -> str | None:
    """Return the date that the prompts of a run have, where it was recorded."""
    try:
        before = json.loads(settings_file(out).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    date = before.get("date") if isinstance(before, dict) else None
    return date if isinstance(date, str) else None


def _check_settings(plan: Plan) -> None:
    """Refuse to mix episodes of different runs in a file."""
    path = settings_file(plan.out)
    now = json.loads(json.dumps(plan.settings))
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as err:
            before = err
        if not isinstance(before, dict):
            raise EtoGymError(
                f"{path} does not say how {plan.out} was made (it is damaged): put it back, or "
                "choose another --out"
            )
        names = sorted({*before, *now})
        changed = [name for name in names if before.get(name) != now.get(name)]
        if changed and plan.out.stat().st_size:  # else nothing was played with them
            if any(played.scored for played in TrajectoryStore(plan.out).load()):
                told = ", ".join(
                    f"{n} {before.get(n)!r} there, {now.get(n)!r} here" for n in changed
                )
                raise EtoGymError(
                    f"{plan.out} belongs to another run ({told}): choose another --out"
                )
            _set_aside(plan.out)
    elif plan.out.stat().st_size:
        raise EtoGymError(
            f"{plan.out} holds trajectories but {path.name}, which says how they were made, is "
            "missing: choose another --out"
        )
    write_json(path, now)


def _set_aside(out: Path) -> None:
    """Move episodes that all failed to a file beside: a start that failed blocks no other."""
    aside = out.with_name(f"{out.stem}.failed.jsonl")
    with aside.open("ab") as file:
        episodes = out.read_bytes()
        file.write(episodes if episodes.endswith(b"\n") else episodes + b"\n")
    os.truncate(out, 0)
    told = f"every episode of an earlier run in {out} failed: they are in {aside} now"
    print(f"eto-gym: {told}", file=sys.stderr)
