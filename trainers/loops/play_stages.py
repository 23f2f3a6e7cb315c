"""The stages of a loop that play: demonstrate, explore, evaluate.

All processes of a loop play, each its part of the episodes with a policy of its own on its own
device.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import eto_gym
from eto_gym.agents.evaluation.measures import summarise
from eto_gym.agents.models.loading import read_template
from eto_gym.agents.models.template import run_date
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.agents.rollout.engine import Episode, plan_episodes
from eto_gym.agents.rollout.launchers import Launcher, get_launcher
from eto_gym.trainers.loops.players import Players, Served, StagePolicy
from eto_gym.trainers.loops.report import Evaluated
from eto_gym.trainers.loops.run_folder import RunFolder, Stage
from eto_gym.trainers.loops.shared_play import play_shared
from eto_gym.trainers.loops.stage_data import (
    TRAJECTORIES,
    model_of,
)
from eto_gym.trainers.loops.world import open_world
from eto_gym.trainers.run.process_group import ProcessGroup, launched
from eto_gym.trainers.settings.world import ExplorationSettings, WorldSettings
from eto_gym.trajectories import Trajectory

logger = logging.getLogger(__name__)


class Turn(NamedTuple):
    """When an exploration is played.

    Attributes:
        number: Number of the round that learns from it, from 1.
        staleness: Trainings by which the model that explores is behind the one that learns.
    """

    number: int = 1
    staleness: int = 0

    def seed(self, seed: int) -> int:
        """Return the seed of its sampling: one of its own where the model is behind.

        Such a model may have explored before, and would say the same again.

        Args:
            seed: That of the run.
        """
        if not self.staleness:
            return seed
        text = f"{seed}\0round {self.number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")

    def decides(self) -> dict[str, Any]:
        """Return what a stage depends on by this: nothing where the newest model explores."""
        return {"ahead": self._asdict()} if self.staleness else {}

    def player(self, model: Stage) -> dict[str, Any]:
        """Return what is recorded of the model that explores: nothing of the newest one."""
        return {"model": model.path.name, "staleness": self.staleness} if self.staleness else {}


ON_TIME = Turn()
"""The first round, in which the newest model explores."""


class PlayStages:
    """A run folder with its tasks, and the stages that fill it with trajectories.

    Attributes:
        given: The settings as they were given.
        settings: The same with the run's seed added to the seeds of the parts.
        processes: The processes that run the loop.
        folder: The run folder.
        lists_actions: Whether the environment lists its admissible actions; known once `open` has
            been called.
        evaluated: The policies that were evaluated, in order; the rows of the report.
        limits: The limits of replies in which this start differs from the folder's first.
        staleness: Key of the stage of a model -> trainings by which what it has learnt from was
            behind; models that learnt from what the newest model played are not in it.
    """

    def __init__(self, settings: WorldSettings, out: str | Path) -> None:
        """Prepare a run; processes that a launcher started join here.

        Args:
            settings: What to run.
            out: The run folder; one that holds finished stages of the same settings is continued.
        """
        self.given = settings
        if settings.chat_template:  # its text, and not where it lies, decides what is played
            text = read_template(settings.chat_template)
            settings = replace(settings, chat_template=text)
        self.settings = settings.seeded()
        self.processes = launched()
        self.folder = RunFolder(out, self.processes)
        self._players = Players(self.settings, self.folder.path, self.processes)
        self.lists_actions = False
        self.evaluated: list[Evaluated] = []
        self.limits: dict[str, Any] = {}
        self.staleness: dict[str, int] = {}
        if self.settings.launcher != "local":
            get_launcher(self.settings.launcher)  # what it needs is missing now, not in an hour
        self._tasks: dict[str, tuple[str, ...]] = {}
        self._dev_aside: tuple[str, ...] = ()

    def explore(
        self,
        name: str,
        model: Stage,
        exploration: ExplorationSettings,
        *,
        tasks: int,
        turn: Turn = ON_TIME,
    ) -> Stage:
        """Play training tasks with a model; `tasks` counts where the settings name no number."""
        split, count = self.settings.train_split, exploration.explore_tasks or tasks
        samples, temperature = exploration.explore_samples, exploration.explore_temperature
        return self.rollouts(
            name,
            self.policy_maker(model, name, temperature=temperature),
            split=split,
            episodes=self.planned(split, count, samples, turn),
            depends_on={
                **self.chosen(split, count),
                **{"samples": samples, "temperature": temperature},
                **turn.decides(),
                **self.limits,
            },
            player=turn.player(model),
            inputs=(model,),
        )

    def evaluate(self, label: str, name: str, model: Stage) -> Stage:
        """Score a model, greedily, on held-out tasks; it becomes a row of the report."""
        s = self.settings
        evaluation = self.rollouts(
            f"eval-{name}",
            self.policy_maker(model, f"eval-{name}", temperature=0.0),
            split=s.eval_split,
            episodes=self.planned(s.eval_split, s.eval_tasks),
            depends_on={"tasks": s.eval_tasks, "samples": 1, **self.limits},
            inputs=(model,),
        )
        staleness = self.staleness.get(model.key, 0)
        self.evaluated.append(Evaluated(label, model, evaluation, staleness))
        return evaluation

    def rollouts(
        self,
        name: str,
        make_policy: Callable[[], Policy],
        *,
        split: str,
        episodes: Callable[[], Sequence[Episode]],
        depends_on: dict[str, Any],
        env_options: dict[str, Any] | None = None,
        player: dict[str, Any] | None = None,
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
            player: What is recorded of the model that plays, if it is behind.
            inputs: Stages that the policy or the episodes come from.
        """
        s = self.settings
        spec = replace(self.spec(make_policy, split, env_options), player=player or {})
        told = {"player": player} if player else {}

        def work(folder: Path) -> Any:
            played = self.play_episodes(spec, episodes(), folder / TRAJECTORIES, name)
            return {**summarise(played), **told}

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

    # --- what the stages share --------------------------------------------------------------------

    def play_episodes(
        self, spec: RolloutSpec, episodes: Sequence[Episode], path: Path, label: str
    ) -> list[Trajectory]:
        """Play episodes, all processes together; `path` keeps them."""
        played = play_shared(
            spec,
            episodes,
            path=path,
            processes=self.processes,
            progress=label if self.settings.progress else None,
            playing=self.playing,
            launcher=self._launcher(spec),
        )
        if isinstance(spec.make_policy, StagePolicy):
            self._players.check(played, label)
        return played

    def check_replies(self, errors: Mapping[str, int], asked: int, label: str) -> None:
        """Refuse what the model of a stage mostly gave no replies to; see `Players`."""
        self._players.check_replies(errors, asked, label)

    def _launcher(self, spec: RolloutSpec) -> Launcher | None:
        """Return what plays elsewhere, for all processes; None: each plays its part."""
        name = self.settings.launcher
        if name == "local":
            return None
        # Scripted policies read the environment, and so are where it is.
        return get_launcher(name if isinstance(spec.make_policy, StagePolicy) else "ray")

    def playing(self, spec: RolloutSpec) -> AbstractContextManager[RolloutSpec]:
        """Return a context with what plays, servers included; see `Players.playing`."""
        return self._players.playing(spec)

    def serving(self, policy: StagePolicy) -> AbstractContextManager[Served]:
        """Return a context with servers of a policy's model; see `Players.serving`."""
        return self._players.serving(policy)

    def elsewhere(self, served: Served) -> PlayStages:
        """Return what another process does stages of this folder with; it can be pickled.

        Args:
            served: What is asked for the replies of all models.
        """
        other = copy.copy(self)
        other.settings = replace(self.settings, progress=False)
        other.processes = ProcessGroup()
        other.folder = RunFolder(self.folder.path)
        other.evaluated = []
        other._players = Players(other.settings, other.folder.path, other.processes, served)
        return other

    def spec(
        self,
        make_policy: Callable[[], Policy],
        split: str,
        env_options: dict[str, Any] | None = None,
        workers: int = 0,
    ) -> RolloutSpec:
        """Return what plays a split, as the settings say; `workers` counts where it is not 0."""
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

    def planned(
        self, split: str, tasks: int, samples: int = 1, turn: Turn = ON_TIME
    ) -> Callable[[], list[Episode]]:
        """Return what lists the episodes of `tasks` tasks of a split (0: all), when called."""

        def plan() -> list[Episode]:
            seed = turn.seed(self.settings.seed)
            return plan_episodes(self.task_ids(split, tasks), samples=samples, seed=seed)

        return plan

    def open(self) -> None:
        """Look the tasks up, in an order fixed by the seed, and refuse a world that will not do."""
        s = self.settings

        def look_up() -> tuple[dict[str, tuple[str, ...]], bool]:
            world = open_world(s)
            ids = {split: tasks.shuffle(s.seed).ids for split, tasks in world.tasks.items()}
            return ids, world.lists_actions

        self.processes.first(self._players.clear)
        # The first looks them up, for all: it may have to build what an environment reads.
        self._tasks, self.lists_actions = self.processes.first(look_up)
        if s.dev_tasks and s.dev_split == s.train_split:
            self._set_aside(s.dev_tasks)

    def close(self) -> None:
        """End what plays and was kept from stage to stage."""
        self._players.close()

    def _set_aside(self, wanted: int) -> None:
        """Take the dev tasks from the end of the training split, a quarter of it at most."""
        ids = self._tasks[self.settings.train_split]
        count = min(wanted, len(ids) // 4)
        logger.info(
            "%d of the %d training tasks are set aside for dev and not trained on%s",
            count,
            len(ids),
            f"; {wanted} were asked for" if count < wanted else "",
        )
        rest = len(ids) - count
        self._tasks[self.settings.train_split], self._dev_aside = ids[:rest], ids[rest:]

    def dev_ids(self) -> tuple[str, ...]:
        """Return the dev tasks; those of the training split are not trained on."""
        s = self.settings
        if not s.dev_tasks:
            return ()
        if s.dev_split == s.train_split:
            return self._dev_aside
        return self.task_ids(s.dev_split, s.dev_tasks)

    def task_ids(self, split: str, count: int) -> tuple[str, ...]:
        """Return the ids of `count` tasks of a split in an order fixed by the seed; 0: all."""
        ids = self._tasks[split]
        return ids[:count] if count else ids

    def chosen(self, split: str, count: int) -> dict[str, Any]:
        """Return what decides which tasks `task_ids` names, besides the seed.

        Where tasks are set aside of a split, and all of it would be taken or more than is left,
        this says how many; a stage that takes less than is left has the same tasks either way.
        """
        aside = len(self._dev_aside) if split == self.settings.train_split else 0
        narrowed = aside and not 0 < count <= len(self._tasks[split])
        return {"tasks": count, **({"set_aside": aside} if narrowed else {})}

    def policy_maker(self, model: Stage, name: str, *, temperature: float) -> StagePolicy:
        """Return the factory of the policy that plays with the model of a stage."""
        s = self.settings
        return StagePolicy(
            model_of(model),
            name=name,
            temperature=temperature,
            max_new_tokens=s.max_new_tokens,
            context=s.max_context,
            device=self.processes.device,
            template_kwargs=s.template_kwargs,
            chat_template=s.chat_template,
            dtype=s.play_dtype,
            compile=s.play_compile,
            date=run_date(),
        )
