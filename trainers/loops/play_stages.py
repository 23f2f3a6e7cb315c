"""The stages of a loop that play, and those that choose among what was played.

All processes of a loop play, each its part of the episodes with a policy of its own on its own
device. What is chosen from them is chosen by the first.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import eto_gym
from eto_gym.agents.evaluation.statistics import summarise
from eto_gym.agents.policies import expert_policy, local_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.agents.rollout.engine import Episode, plan_episodes
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import DataError
from eto_gym.history import FULL
from eto_gym.registration import make_text_env
from eto_gym.trainers.data.corrections import correct_failures
from eto_gym.trainers.data.history import read_again
from eto_gym.trainers.data.pairing import make_pairs
from eto_gym.trainers.data.rejection import keep_best
from eto_gym.trainers.loops.ranks import launched
from eto_gym.trainers.loops.report import Evaluated
from eto_gym.trainers.loops.run_folder import RunFolder, Stage
from eto_gym.trainers.loops.shared_play import play_shared
from eto_gym.trainers.loops.stage_data import (
    TRAJECTORIES,
    load_trajectories,
    model_of,
    write_pairs,
    write_trajectories,
)
from eto_gym.trainers.loops.world import open_world
from eto_gym.trainers.settings.data import PairingSettings, RejectionSettings
from eto_gym.trainers.settings.world import ExpertSettings, ExplorationSettings, WorldSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.eto_experts import read_experts
from eto_gym.trajectories.eto_files import PREFIX, find_file
from eto_gym.trajectories.formats import ReadReport, read_demonstrations

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=WorldSettings)


class PlayStages(Generic[S]):
    """A run folder, and the stages that fill it with trajectories and pairs."""

    def __init__(self, settings: S, out: str | Path) -> None:
        """Prepare a run; processes that a launcher started join here.

        Args:
            settings: What to run.
            out: The run folder; one that holds finished stages of the same settings is continued.
        """
        self._given = settings
        self.settings = settings.seeded()
        self.ranks = launched()
        self.folder = RunFolder(out, self.ranks)
        self._tasks: dict[str, tuple[str, ...]] = {}
        self._dev_aside: tuple[str, ...] = ()
        self._lists_actions = False
        self._evaluated: list[Evaluated] = []

    # --- stages that play -------------------------------------------------------------------------

    def _experts(self, source: ExpertSettings) -> Stage:
        """Return demonstrations of the training tasks."""
        s = self.settings
        if source.expert_file.startswith(PREFIX):
            return self._paper_experts(source.expert_file)
        if source.expert_file:
            return self._given_experts(Path(source.expert_file), strict=source.strict)
        return self._rollouts(
            "experts",
            expert_policy,
            split=s.train_split,
            episodes=self._plan(s.train_split, source.train_tasks),
            depends_on={"tasks": source.train_tasks, "samples": 1},
        )

    def _explore(
        self, name: str, model: Stage, exploration: ExplorationSettings, *, tasks: int
    ) -> Stage:
        """Play training tasks with a model; `tasks` counts where the settings name no number."""
        split, count = self.settings.train_split, exploration.explore_tasks or tasks
        samples, temperature = exploration.explore_samples, exploration.explore_temperature
        return self._rollouts(
            name,
            self._policy_maker(model, name, temperature=temperature),
            split=split,
            episodes=self._plan(split, count, samples),
            depends_on={"tasks": count, "samples": samples, "temperature": temperature},
            inputs=(model,),
        )

    def _evaluate(self, label: str, name: str, model: Stage) -> Stage:
        """Score a model, greedily, on held-out tasks; it becomes a row of the report."""
        s = self.settings
        evaluation = self._rollouts(
            f"eval-{name}",
            self._policy_maker(model, f"eval-{name}", temperature=0.0),
            split=s.eval_split,
            episodes=self._plan(s.eval_split, s.eval_tasks),
            depends_on={"tasks": s.eval_tasks, "samples": 1},
            inputs=(model,),
        )
        self._evaluated.append(Evaluated(label, model, evaluation))
        return evaluation

    def _rollouts(
        self,
        name: str,
        make_policy: Callable[[], Policy],
        *,
        split: str,
        episodes: Callable[[], Sequence[Episode]],
        depends_on: dict[str, Any],
        env_options: dict[str, Any] | None = None,
        inputs: tuple[Stage, ...] = (),
    ) -> Stage:
        """Play episodes.

        Args:
            name: Name of the stage.
            make_policy: Builds what plays.
            split: Where the tasks come from.
            episodes: Lists the episodes; called only if the stage has work to do.
            depends_on: What decides the episodes, besides `inputs`.
            env_options: Further arguments of `gym.make`.
            inputs: Stages that the policy or the episodes come from.
        """
        s = self.settings
        spec = self._spec(make_policy, split, env_options)

        def work(folder: Path) -> Any:
            return summarise(self._play(spec, episodes(), folder / TRAJECTORIES, name)).to_json()

        settings = {
            "env": s.env,
            "env_kwargs": {**s.env_kwargs(), **(env_options or {})},
            "split": split,
            "seed": s.seed,
            "prompt_style": s.prompt_style,
            **s.read_so(),
            "version": eto_gym.__version__,
            **depends_on,
        }
        return self.folder.run(name, work, settings=settings, inputs=inputs)

    # --- stages that choose -----------------------------------------------------------------------

    def _given_experts(self, path: Path, *, strict: bool) -> Stage:
        """Take demonstrations from a file, as if their replies were given to the run's history."""
        s = self.settings

        def describe() -> dict[str, Any]:
            try:
                stamp = path.stat()
            except (OSError, ValueError) as err:
                raise DataError(f"could not read the expert file {path}: {err}") from err
            file = {"file": str(path.resolve()), "size": stamp.st_size, "mtime": stamp.st_mtime_ns}
            return {**file, **s.read_so()}

        def work(folder: Path) -> Any:
            report = ReadReport()
            read, skipped = read_demonstrations(path, strict=strict, report=report)
            distinct = _distinct(read)
            if repeated := len(read) - len(distinct):
                report.notes["the same episode again, which is left out"] = repeated
            for line in report.lines():
                logger.info("%s", line)
            if s.history != FULL:
                env = self._spec(expert_policy, s.train_split).make_env()
                distinct = [read_again(trajectory, s.history, env) for trajectory in distinct]
                env.close()
            write_trajectories(folder, distinct)
            return {
                **summarise(distinct).to_json(),
                "skipped_lines": skipped,
                "notes": dict(report.notes),
            }

        return self.folder.run("experts", work, settings=self.ranks.first(describe), by_first=True)

    def _paper_experts(self, name: str) -> Stage:
        """Take the paper's own demonstrations, as episodes of this environment's tasks."""
        s = self.settings
        path = self.ranks.first(lambda: find_file(name))
        making = {**s.env_kwargs(), "split": s.train_split}

        def work(folder: Path) -> Any:
            env = make_text_env(s.env, **{**making, "admissible_actions": True})
            try:
                taken, report = read_experts(path, name, env, prompt_style=s.prompt_style)
            finally:
                env.close()
            logger.info("%s: %s", name, report)
            write_trajectories(folder, taken)
            return {**summarise(taken).to_json(), **report.to_json()}

        stamp = path.stat()
        settings = {
            "file": str(path),
            "size": stamp.st_size,
            "mtime": stamp.st_mtime_ns,
            "env": s.env,
            "env_kwargs": making,
            "prompt_style": s.prompt_style,
        }
        return self.folder.run("experts", work, settings=settings, by_first=True)

    def _keep(self, name: str, settings: RejectionSettings, *explored: Stage) -> Stage:
        """Keep the best successes of each task among the trajectories of some stages."""

        def work(folder: Path) -> Any:
            kept, report = keep_best(load_trajectories(*explored), settings)
            write_trajectories(folder, kept)
            return asdict(report)

        return self.folder.run(
            name, work, settings=asdict(settings), inputs=explored, by_first=True
        )

    def _pair(
        self, name: str, settings: PairingSettings, experts: Stage | None, explored: Stage
    ) -> Stage:
        """Pair what a model did with the experts' trajectories, or with what else it did."""
        if settings.contrast == "correction":
            return self._correct(name, settings, explored)

        def work(folder: Path) -> Any:
            agent = load_trajectories(explored)
            expert = load_trajectories(experts) if experts else ()
            pairs, report = make_pairs(agent, expert, settings)
            write_pairs(folder, pairs)
            return {**asdict(report), "skipped": dict(report.skipped)}

        inputs = (explored,) if experts is None else (experts, explored)
        return self.folder.run(name, work, settings=asdict(settings), inputs=inputs, by_first=True)

    def _correct(self, name: str, settings: PairingSettings, explored: Stage) -> Stage:
        """Pair a model's replies in its failures with what the environment's expert would say."""
        s = self.settings
        spec = self._spec(expert_policy, s.train_split)

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
            **asdict(settings),
        }
        return self.folder.run(name, work, settings=depends_on, inputs=(explored,), by_first=True)

    # --- what the stages share --------------------------------------------------------------------

    def _play(
        self, spec: RolloutSpec, episodes: Sequence[Episode], path: Path, label: str
    ) -> list[Trajectory]:
        """Play episodes, all processes together; `path` keeps them."""
        shown = label if self.settings.progress else None
        return play_shared(spec, episodes, path=path, ranks=self.ranks, progress=shown)

    def _spec(
        self,
        make_policy: Callable[[], Policy],
        split: str,
        env_options: dict[str, Any] | None = None,
        workers: int = 0,
    ) -> RolloutSpec:
        s = self.settings
        return RolloutSpec(
            s.env,
            make_policy,
            env_kwargs={**s.env_kwargs(), "split": split, **(env_options or {})},
            prompt_style=s.prompt_style,
            history=s.history,
            slots=s.slots,
            workers=workers or s.workers,
        )

    def _plan(self, split: str, tasks: int, samples: int = 1) -> Callable[[], list[Episode]]:
        def plan() -> list[Episode]:
            return plan_episodes(
                self._task_ids(split, tasks), samples=samples, seed=self.settings.seed
            )

        return plan

    def _open(self) -> None:
        """Look the tasks up, in an order fixed by the seed, and refuse a world that will not do."""
        s = self.settings

        def look_up() -> tuple[dict[str, tuple[str, ...]], bool]:
            world = open_world(s)
            ids = {split: tasks.shuffle(s.seed).ids for split, tasks in world.tasks.items()}
            return ids, world.lists_actions

        # The first looks them up, for all: it may have to build what an environment reads.
        self._tasks, self._lists_actions = self.ranks.first(look_up)
        if s.dev_tasks and s.dev_split == s.train_split:
            self._set_aside(s.dev_tasks)

    def _set_aside(self, wanted: int) -> None:
        """Take the dev tasks from the end of the training split, a quarter of it at most."""
        ids = self._tasks[self.settings.train_split]
        count = min(wanted, len(ids) // 4)
        if count < wanted:
            logger.info("only %d of the %d training tasks are set aside for dev", count, len(ids))
        rest = len(ids) - count
        self._tasks[self.settings.train_split], self._dev_aside = ids[:rest], ids[rest:]

    def _dev_ids(self) -> tuple[str, ...]:
        """Return the dev tasks; those of the training split are not trained on."""
        s = self.settings
        if not s.dev_tasks:
            return ()
        if s.dev_split == s.train_split:
            return self._dev_aside
        return self._task_ids(s.dev_split, s.dev_tasks)

    def _task_ids(self, split: str, count: int) -> tuple[str, ...]:
        """Return the ids of `count` tasks of a split in an order fixed by the seed; 0: all."""
        ids = self._tasks[split]
        return ids[:count] if count else ids

    def _policy_maker(self, model: Stage, name: str, *, temperature: float) -> Callable[[], Policy]:
        s = self.settings
        return functools.partial(
            local_policy,
            model_of(model),
            name=name,
            temperature=temperature,
            max_new_tokens=s.max_new_tokens,
            context=s.max_context,
            device=self.ranks.device,
        )


def _distinct(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return each episode once: what was played again after an error counts, not the error."""
    episodes: dict[tuple[Any, ...], Trajectory] = {}
    for trajectory in trajectories:
        before = episodes.get(trajectory.key)
        if before is None or before.failed_to_run:
            episodes[trajectory.key] = trajectory
    return list(episodes.values())
