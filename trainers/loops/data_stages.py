"""The stages of a loop that say what is learnt from: demonstrations, successes, pairs.

What is chosen from trajectories is chosen by the first process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import eto_gym
from eto_gym.agents.evaluation.measures import summarise
from eto_gym.agents.policies import expert_policy
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import DataError
from eto_gym.history import FULL
from eto_gym.registration import make_text_env
from eto_gym.trainers.data.corrections import correct_failures
from eto_gym.trainers.data.first_error import Errors, find_errors
from eto_gym.trainers.data.held_out import HeldOut
from eto_gym.trainers.data.history import read_again
from eto_gym.trainers.data.pairing import make_pairs
from eto_gym.trainers.data.rejection import keep_best
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.run_folder import Stage, digest
from eto_gym.trainers.loops.stage_data import load_trajectories, write_pairs, write_trajectories
from eto_gym.trainers.settings.base import deciding
from eto_gym.trainers.settings.data import PairingSettings, RejectionSettings
from eto_gym.trainers.settings.world import ExpertSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.eto_experts import read_experts
from eto_gym.trajectories.eto_files import PREFIX, find_file
from eto_gym.trajectories.formats import ReadReport, read_demonstrations

logger = logging.getLogger(__name__)

_HISTORY = ("history", "state_text")
"""Names of what `read_so` tells of how much is read, and not of how templates render it."""


class DataStages:
    """The stages that take demonstrations, keep successes and make pairs."""

    def __init__(self, play: PlayStages) -> None:
        """Work in the run folder of `play`, which plays what has to be played."""
        self._play = play

    def experts(self, source: ExpertSettings) -> Stage:
        """Return demonstrations of the training tasks; none is of a dev task."""
        s = self._play.settings
        if source.expert_file.startswith(PREFIX):
            return self._paper_experts(source.expert_file, strict=source.strict)
        if source.expert_file:
            return self._given_experts(Path(source.expert_file), strict=source.strict)
        return self._play.rollouts(
            "experts",
            expert_policy,
            split=s.train_split,
            episodes=self._play.planned(s.train_split, source.train_tasks),
            depends_on={**self._play.chosen(s.train_split, source.train_tasks), "samples": 1},
        )

    def _given_experts(self, path: Path, *, strict: bool) -> Stage:
        """Take demonstrations from a file, as if their replies were given to the run's history."""
        s = self._play.settings

        def describe() -> dict[str, Any]:
            try:
                stamp = path.stat()
            except (OSError, ValueError) as err:
                raise DataError(f"could not read the expert file {path}: {err}") from err
            file = {"file": str(path.resolve()), "size": stamp.st_size, "mtime": stamp.st_mtime_ns}
            strictly = {"strict": True} if strict else {}
            return {**file, **s.read_so(), **strictly, **self._left_out()}

        def work(folder: Path) -> Any:
            report = ReadReport()
            read, skipped = read_demonstrations(path, strict=strict, report=report)
            distinct = _distinct(read)
            if repeated := len(read) - len(distinct):
                report.notes["the same episode again, which is left out"] = repeated
            distinct, held_out = self._without_dev(distinct)
            if held_out:
                report.notes["an episode of a dev task, which is left out"] = held_out
            for line in report.lines():
                logger.info("%s", line)
            distinct = self._read_again(distinct)
            write_trajectories(folder, distinct)
            return {
                **summarise(distinct),
                "skipped_lines": skipped,
                "notes": dict(report.notes),
            }

        return self._play.folder.run(
            "experts", work, settings=self._play.processes.first(describe), by_first=True
        )

    def _read_again(self, recorded: list[Trajectory]) -> list[Trajectory]:
        """Return demonstrations of a file as if their replies were given to the run's history."""
        s = self._play.settings
        if s.history == FULL:
            return recorded
        env = self._play.spec(expert_policy, s.train_split).make_env()
        try:
            return [read_again(trajectory, s.history, env) for trajectory in recorded]
        finally:
            env.close()

    def _paper_experts(self, name: str, *, strict: bool) -> Stage:
        """Take the paper's own demonstrations, as episodes of this environment's tasks.

        As with other files, their replies then count as given to the run's history.
        """
        s = self._play.settings
        path = self._play.processes.first(lambda: find_file(name))
        making = {**s.env_kwargs(), "split": s.train_split}
        # Of another split the file has no episode.
        aside = self._play.dev_ids() if s.dev_split == s.train_split else ()

        def work(folder: Path) -> Any:
            env = make_text_env(s.env, **{**making, "admissible_actions": True})
            try:
                taken, report = read_experts(path, name, env, prompt_style=s.prompt_style)
            finally:
                env.close()
            kept = [t for t in taken if t.task_id not in aside]
            if held_out := len(taken) - len(kept):
                report.left_out["dev_task"] = held_out
                report.examples["dev_task"] = [t.task_id for t in taken if t.task_id in aside][:3]
                report.taken = len(kept)
            logger.info("%s: %s", name, report)
            if strict and report.left_out["malformed"]:
                raise DataError(f"{path} has corrupt records, and strict is set: {report}")
            kept = self._read_again(kept)
            write_trajectories(folder, kept)
            return {**summarise(kept), **report.to_json()}

        stamp = path.stat()
        settings = {
            "file": str(path),
            "size": stamp.st_size,
            "mtime": stamp.st_mtime_ns,
            "env": s.env,
            "env_kwargs": making,
            "prompt_style": s.prompt_style,
            **(self._left_out() if aside else {}),
            **({"strict": True} if strict else {}),
            **{name: value for name, value in s.read_so().items() if name in _HISTORY},
        }
        return self._play.folder.run("experts", work, settings=settings, by_first=True)

    def _left_out(self) -> dict[str, Any]:
        """Return what decides which demonstrations are left out: nothing without dev tasks."""
        dev = self._play.dev_ids()
        return {"left_out": [self._play.settings.dev_split, digest(sorted(dev))]} if dev else {}

    def _without_dev(self, demonstrations: list[Trajectory]) -> tuple[list[Trajectory], int]:
        """Leave out demonstrations of dev tasks; return the rest, and how many they were."""
        s = self._play.settings
        dev = self._play.dev_ids()
        if not dev:
            return demonstrations, 0
        env = self._play.spec(expert_policy, s.dev_split).make_env()
        try:
            known = self._play.task_ids(s.train_split, 0)
            held_out = HeldOut(dev, env, known=known, split=s.dev_split)
            kept = [t for t in demonstrations if not held_out.holds(t)]
        finally:
            env.close()
        return kept, len(demonstrations) - len(kept)

    def keep(self, name: str, settings: RejectionSettings, *explored: Stage) -> Stage:
        """Keep the best successes of each task among the trajectories of some stages."""

        def work(folder: Path) -> Any:
            kept, report = keep_best(load_trajectories(*explored), settings)
            write_trajectories(folder, kept)
            return asdict(report)

        return self._play.folder.run(
            name, work, settings=asdict(settings), inputs=explored, by_first=True
        )

    def pair(
        self, name: str, settings: PairingSettings, experts: Stage | None, explored: Stage
    ) -> Stage:
        """Pair what a model did with the experts' trajectories, or with what else it did."""
        if settings.contrast == "correction":
            return self._correct(name, settings, explored)

        def work(folder: Path) -> Any:
            agent = load_trajectories(explored)
            expert = load_trajectories(experts) if experts else ()
            errors = None if settings.cut == "none" else self._errors(agent)
            pairs, report = make_pairs(agent, expert, settings, errors=errors)
            write_pairs(folder, pairs)
            return {**asdict(report), "skipped": dict(report.skipped)}

        inputs = (explored,) if experts is None else (experts, explored)
        return self._play.folder.run(
            name, work, settings=deciding(settings), inputs=inputs, by_first=True
        )

    def _errors(self, agent: Sequence[Trajectory]) -> dict[tuple[str, int], Errors | None]:
        """Repeat the agent's failures in the environment, to see where they left the path."""
        s = self._play.settings
        spec = self._play.spec(expert_policy, s.train_split)
        env = ConversationEnv(spec.make_env(), prompt_style=s.prompt_style, history=s.history)
        try:
            return find_errors(env, agent)
        finally:
            env.close()

    def _correct(self, name: str, settings: PairingSettings, explored: Stage) -> Stage:
        """Pair a model's replies in its failures with what the environment's expert would say."""
        s = self._play.settings
        spec = self._play.spec(expert_policy, s.train_split)

        def work(folder: Path) -> Any:
            env = ConversationEnv(spec.make_env(), prompt_style=s.prompt_style, history=s.history)
            try:
                pairs, report = correct_failures(env, load_trajectories(explored), settings)
            finally:
                env.close()
            write_pairs(folder, pairs)
            return {**asdict(report), "skipped": dict(report.skipped)}

        depends_on = {
            "env": s.env,
            "env_kwargs": s.env_kwargs(),
            "prompt_style": s.prompt_style,
            "version": eto_gym.__version__,
            **deciding(settings),
        }
        return self._play.folder.run(
            name, work, settings=depends_on, inputs=(explored,), by_first=True
        )


def _distinct(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return each episode once: what was played again after an error counts, not the error."""
    episodes: dict[tuple[Any, ...], Trajectory] = {}
    for trajectory in trajectories:
        before = episodes.get(trajectory.key)
        if before is None or not before.scored:
            episodes[trajectory.key] = trajectory
    return list(episodes.values())
