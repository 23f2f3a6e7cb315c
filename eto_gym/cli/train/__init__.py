"""`eto-gym train METHOD`: train a policy; the options are generated from the settings classes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eto_gym.errors import EtoGymError, check_choice
from eto_gym.registration import resolve_env_id

if TYPE_CHECKING:
    from eto_gym.cli.train.options import Command


@dataclass(frozen=True)
class LoopMethod:
    """A method that plays in an environment, in a run folder of its own.

    Attributes:
        module: Holds the loop; imported when it is asked for.
        settings: Name of the settings class in `eto_gym.trainers.settings.loops`.
        loop: Name of the loop.
        help: What it does.
    """

    module: str
    settings: str
    loop: str
    help: str


LOOPS = {
    "eto": LoopMethod(
        "eto_gym.trainers.loops.eto",
        "ETOSettings",
        "ETOLoop",
        "Run the ETO loop: expert trajectories, SFT, exploration, pairs, DPO, and an evaluation "
        "of every policy.",
    ),
    "rft": LoopMethod(
        "eto_gym.trainers.loops.rft",
        "RFTSettings",
        "RFTLoop",
        "Rejection-sampled fine-tuning: SFT on the experts' and the agent's own successes.",
    ),
    "self-play": LoopMethod(
        "eto_gym.trainers.loops.self_play",
        "SelfPlaySettings",
        "SelfPlayLoop",
        "Learn without an expert: SFT on own successes, DPO on own successes against failures.",
    ),
    "step-dpo": LoopMethod(
        "eto_gym.trainers.loops.step_dpo",
        "StepDPOSettings",
        "StepDPOLoop",
        "Step-level DPO: alternative steps from snapshots, valued by Monte-Carlo rollouts.",
    ),
    "mixture": LoopMethod(
        "eto_gym.trainers.loops.mixture",
        "MixtureLoopSettings",
        "MixtureLoop",
        "Outcome DPO, step DPO and SFT in one loss, as in IPR.",
    ),
    "hpl": LoopMethod(
        "eto_gym.trainers.loops.mixture",
        "HPLLoopSettings",
        "HPLLoop",
        "Hierarchical preference learning: DPO on episodes, action groups and steps, by phases.",
    ),
    "early-experience": LoopMethod(
        "eto_gym.trainers.loops.early_experience",
        "EarlyExperienceSettings",
        "EarlyExperienceLoop",
        "Early experience: predict what other actions than the experts' lead to, then SFT.",
    ),
    "ppo": LoopMethod(
        "eto_gym.trainers.loops.on_policy",
        "PPOLoopSettings",
        "PPOLoop",
        "PPO after SFT: clipped, with a value head and advantages per turn.",
    ),
    "grpo": LoopMethod(
        "eto_gym.trainers.loops.on_policy",
        "GroupLoopSettings",
        "GRPOLoop",
        "GRPO after SFT, by TRL: several episodes of a task are compared with each other.",
    ),
    "rloo": LoopMethod(
        "eto_gym.trainers.loops.on_policy",
        "RLOOLoopSettings",
        "RLOOLoop",
        "RLOO after SFT, by TRL: each episode against the mean of the others of its task.",
    ),
}
"""Methods that play; each evaluates what it trains."""

SHORT_NAMES = {
    "grpo": {"group.advantage": "advantage"},
    "ppo": {"ppo.advantage": "advantage"},
    "rloo": {"group.advantage": "advantage"},
    "step-dpo": {"steps.reward": "step-reward"},
    "mixture": {"steps.reward": "step-reward"},
    "hpl": {"steps.reward": "step-reward"},
}
"""Method -> setting -> its option, where that is another word."""

FILES = ("sft", "dpo")
"""Methods that train on a file."""

METHODS = (*FILES, *LOOPS, "sb3")


def main(argv: Sequence[str]) -> int:
    """Run one training method."""
    argv = list(argv)
    if not argv or argv[0].startswith("-"):
        print(f"usage: eto-gym train {{{','.join(METHODS)}}} [options]   (--help after the method)")
        return 0 if argv and argv[0] in {"-h", "--help"} else 2
    method = check_choice("method", argv[0], METHODS)
    with _said_once():
        if method in LOOPS:
            return _play(method, argv[1:])
        if method == "sb3":
            from eto_gym.cli.train import sb3

            return sb3.main(argv[1:])
        from eto_gym.cli.train.files import train_on_file

        return train_on_file(method, argv[1:])


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Let the first of several launched processes tell how it goes, and the others only warn."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        if name in os.environ and not os.environ[name].isdecimal():
            raise EtoGymError(
                f"expected a number in {name}, which launchers of several processes set, got "
                f"{os.environ[name]!r}: unset it to train in one process"
            )
    if int(os.environ.get("RANK", "0")) == 0:
        yield
        return
    logging.getLogger("eto_gym").setLevel(logging.WARNING)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _play(method: str, argv: Sequence[str]) -> int:
    """Run a method that plays in an environment."""
    from eto_gym.agents.models.model_names import check_model
    from eto_gym.cli.train.options import printed, read_command

    chosen = read_command(loop_command(method), argv)
    options = chosen.options
    settings = replace(chosen.settings, env=resolve_env_id(chosen.settings.env))
    env = settings.env.split("/")[-1].split(":")[-1]
    out = Path(options.out or f"runs/{method}-{env}-{settings.preset}".lower())
    if options.dry_run:
        from eto_gym.trainers.loops.world import open_world

        open_world(settings)  # refuses here what the run would refuse
        print(printed(replace(chosen, settings=settings), out=options.out))
        if not options.out:  # no value: a file of these settings may be used with other ones
            print(f"# out: {out}   <- the method, the environment and the preset")
        return 0
    if settings.model != "tiny":
        check_model(settings.model)  # before anything long begins
    from eto_gym.trainers.loops.report import render

    entry = LOOPS[method]
    loop = getattr(importlib.import_module(entry.module), entry.loop)
    report = loop(settings, out).run()
    print(f"\nRun folder: {out.resolve()}\n\n{render(report)}")
    return 1 if report["ended"] else 0


def command_of(method: str) -> Command:
    """Return what the command of a method takes."""
    if method in LOOPS:
        return loop_command(method)
    if method == "sb3":
        from eto_gym.cli.train.sb3 import sb3_command

        return sb3_command()
    from eto_gym.cli.train.files import file_command

    return file_command(method)


def loop_command(method: str) -> Command:
    """Return what the command of a method that plays takes."""
    from eto_gym.cli.train.options import MAIN, Command
    from eto_gym.trainers.settings import loops

    return Command(
        method=method,
        description=LOOPS[method].help,
        settings=getattr(loops, LOOPS[method].settings),
        flags=lambda parser: parser.add_argument(
            "--out", default="", metavar="FOLDER", help="run folder; a run found there is continued"
        ),
        presets=True,
        main=MAIN,
        names=SHORT_NAMES.get(method, {}),
        pairs={"env_options": "env-arg", "template_kwargs": "template-arg"},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
