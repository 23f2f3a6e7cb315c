"""What the loops are made of: stages that demonstrate, fine-tune, explore, pair, prefer, evaluate.

A loop is a composition of these stages in one run folder. Every stage is done once, however often
the loop is started, and is done again only where its settings or its inputs have changed.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import gymnasium as gym

import eto_gym
from eto_gym.agents.collect import RolloutSpec, collect
from eto_gym.agents.evaluation import compare, summarise
from eto_gym.agents.policies import expert_policy, local_policy, player_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout import Episode, plan_episodes
from eto_gym.errors import EtoGymError
from eto_gym.files import write_json
from eto_gym.tasks import TaskSet
from eto_gym.testing import text_env
from eto_gym.trainers.base import train_base
from eto_gym.trainers.dpo import DPOSettings, run_dpo
from eto_gym.trainers.job import RunArguments, Watch
from eto_gym.trainers.loop_settings import (
    ControlSettings,
    ExpertSettings,
    ExplorationSettings,
    WorldSettings,
)
from eto_gym.trainers.options import TrainSettings, deciding
from eto_gym.trainers.pairing import PairingSettings, make_pairs
from eto_gym.trainers.rejection import RejectionSettings, keep_best
from eto_gym.trainers.report import write_report
from eto_gym.trainers.run_folder import FINISHED, RunFolder, Stage
from eto_gym.trainers.sft import SFTSettings, run_sft
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import (
    read_demonstrations,
    read_pair,
    read_records,
    to_paper_dpo,
    to_paper_sft,
)
from eto_gym.trajectories.pairs import PreferencePair

TRAJECTORIES = "trajectories.jsonl"
PAIRS = "pairs.json"
CONTROL = "control: SFT continued"

S = TypeVar("S", bound=WorldSettings)


class Demonstrated(NamedTuple):
    """The stages with which a method begins that has experts."""

    start: Stage
    experts: Stage
    sft: Stage


class Loop(ABC, Generic[S]):
    """One run of a method in a run folder."""

    method: ClassVar[str]
    """Name of the command, recorded in the report."""
    reference: ClassVar[str | None] = "SFT"
    """Label of the policy that the others are compared with; None: the one that was there first."""

    def __init__(self, settings: S, out: str | Path) -> None:
        """Prepare a run.

        Args:
            settings: What to run.
            out: The run folder; one that holds finished stages of the same settings is continued.
        """
        self._given = settings
        self.settings = settings.seeded()
        self.folder = RunFolder(out)
        self.tasks: dict[str, TaskSet] = {}
        self._evaluated: list[tuple[str, Stage, Stage]] = []  # label, model, evaluation

    def run(self) -> dict[str, Any]:
        """Run all stages and return the report, which is also written to the run folder.

        Raises:
            EtoGymError: A stage cannot be done, or several processes run the loop.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise EtoGymError(
                "a loop runs in one process, which starts `workers` others to play: to train on "
                "several devices, call run_sft, run_dpo or run_group under `accelerate launch`"
            )
        write_json(self.folder.path / "config.json", self._given.to_json())
        self._evaluated = []
        self._run_stages()
        report = self._report()
        write_report(self.folder.path, report)
        write_json(self.folder.path / FINISHED, {"stages": [x.key for x in self.folder.stages]})
        return report

    @abstractmethod
    def _run_stages(self) -> None:
        """Run the method's stages in order."""

    # --- models ---------------------------------------------------------------------------------

    def _start_model(self) -> Stage:
        """Return the model that training starts from, evaluated."""
        s = self.settings
        if s.model != "tiny":
            settings = {"model": s.model}
            stage = self.folder.run("model", lambda _: settings, settings=settings)
            label = f"untrained ({Path(s.model).name})"
        else:
            stage = self._base_model()
            label = "untrained (tiny, base stage only)"
        self._evaluate(label, "untrained", stage)
        return stage

    def _base_model(self) -> Stage:
        s = self.settings
        play = self._rollouts(
            "base-play",
            player_policy,
            split=s.train_split,
            episodes=self._plan(s.train_split, s.base.tasks, s.base.samples),
            depends_on={"tasks": s.base.tasks, "samples": s.base.samples},
            env_options={"admissible_actions": True, "max_episode_steps": s.base.steps},
        )

        def work(folder: Path) -> Any:
            return train_base(s.base, self._load(play), output=folder / "model")

        return self.folder.run("base", work, settings=asdict(s.base), inputs=(play,))

    def _sft(
        self,
        name: str,
        settings: SFTSettings,
        start: Stage,
        *demonstrations: Stage,
    ) -> Stage:
        """Fine-tune `start` on the successes among the trajectories of some stages."""

        def work(folder: Path) -> Any:
            chosen = [t for stage in demonstrations for t in self._load(stage) if t.success]
            if not chosen:
                raise EtoGymError("there is no successful trajectory to learn from")
            write_json(folder / "sft.json", [to_paper_sft(t) for t in chosen])
            report = run_sft(
                settings,
                chosen,
                **self._arguments(folder, start, Watch(progress=self.settings.progress)),
            )
            return asdict(report)

        return self.folder.run(
            name, work, settings=deciding(settings), inputs=(start, *demonstrations)
        )

    def _demonstrate(self, source: ExpertSettings, settings: SFTSettings) -> Demonstrated:
        """Fine-tune the start model on the experts, as most methods begin; evaluate both."""
        start = self._start_model()
        experts = self._experts(source)
        sft = self._sft("sft", settings, start, experts)
        self._evaluate("SFT", "sft", sft)
        return Demonstrated(start, experts, sft)

    def _control(
        self, control: ControlSettings, settings: SFTSettings, first: Demonstrated
    ) -> None:
        """Continue SFT on the demonstrations alone, where a control is wanted, and evaluate it."""
        if control.control:
            epochs = control.control_epochs or settings.epochs
            longer = replace(settings, epochs=epochs)
            stage = self._sft("control", longer, first.sft, first.experts)
            self._evaluate(CONTROL, "control", stage)

    def _arguments(self, folder: Path, start: Stage, watch: Watch) -> RunArguments:
        """Return what a training in a stage's folder is called with."""
        return {
            "model": self._model(start),
            "output": folder / "model",
            "resume": True,
            "watch": watch,
        }

    def _prefer(self, name: str, settings: DPOSettings, model: Stage, pairs: Stage) -> Stage:
        """Train `model` on the pairs of a stage."""

        def work(folder: Path) -> Any:
            report = run_dpo(
                settings,
                self._load_pairs(pairs),
                **self._arguments(folder, model, self._watch(model)),
            )
            return asdict(report)

        return self.folder.run(name, work, settings=self._watched(settings), inputs=(model, pairs))

    def _watch(self, model: Stage) -> Watch:
        """Watch the training of `model` by its success on dev tasks, where some are set aside."""
        s = self.settings
        if not s.dev_tasks:
            return Watch(progress=s.progress)
        from eto_gym.trainers.dev import DevSuccess

        score = DevSuccess(
            self._spec(expert_policy, s.dev_split, workers=1),
            self._task_ids(s.dev_split, s.dev_tasks),
            tokenizer=self._model(model),
            max_new_tokens=s.max_new_tokens,
            context=s.max_context,
            seed=s.seed,
        )
        return Watch(progress=s.progress, on_evaluate=score, every=s.dev_every, patience=s.patience)

    def _watched(self, settings: TrainSettings) -> dict[str, Any]:
        """Return what decides the result of a training that `_watch` watches."""
        s = self.settings
        dev = {"dev": [s.dev_split, s.dev_tasks, s.dev_every, s.patience]} if s.dev_tasks else {}
        return {**deciding(settings), **dev}

    # --- trajectories and pairs -------------------------------------------------------------------

    def _experts(self, source: ExpertSettings) -> Stage:
        """Return demonstrations of the training tasks."""
        s = self.settings
        if not source.expert_file:
            return self._rollouts(
                "experts",
                expert_policy,
                split=s.train_split,
                episodes=self._plan(s.train_split, source.train_tasks),
                depends_on={"tasks": source.train_tasks, "samples": 1},
            )
        path = Path(source.expert_file)

        def work(folder: Path) -> Any:
            with TrajectoryStore(folder / TRAJECTORIES) as store:
                known = {trajectory.key for trajectory in store.load()}
                read, skipped = read_demonstrations(path, strict=source.strict)
                for trajectory in read:
                    if trajectory.key not in known:
                        store.add(trajectory)
                return {**summarise(store.load()).to_json(), "skipped_lines": skipped}

        stamp = path.stat()
        settings = {"file": str(path.resolve()), "size": stamp.st_size, "mtime": stamp.st_mtime_ns}
        return self.folder.run("experts", work, settings=settings)

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

    def _keep(self, name: str, settings: RejectionSettings, *explored: Stage) -> Stage:
        """Keep the best successes of each task among the trajectories of some stages."""

        def work(folder: Path) -> Any:
            offered = [t for stage in explored for t in self._load(stage)]
            kept, report = keep_best(offered, settings)
            (folder / TRAJECTORIES).unlink(missing_ok=True)
            with TrajectoryStore(folder / TRAJECTORIES) as store:
                for trajectory in kept:
                    store.add(trajectory)
            return asdict(report)

        return self.folder.run(name, work, settings=asdict(settings), inputs=explored)

    def _pair(
        self, name: str, settings: PairingSettings, experts: Stage | None, explored: Stage
    ) -> Stage:
        """Pair what a model did with the experts' trajectories, or with what else it did."""

        def work(folder: Path) -> Any:
            pairs, report = make_pairs(
                self._load(explored), self._load(experts) if experts else (), settings
            )
            self._write_pairs(folder, pairs)
            return {**asdict(report), "skipped": dict(report.skipped)}

        inputs = (explored,) if experts is None else (experts, explored)
        return self.folder.run(name, work, settings=asdict(settings), inputs=inputs)

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
        self._evaluated.append((label, model, evaluation))
        return evaluation

    # --- what the stages share --------------------------------------------------------------------

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
            trajectories = collect(
                spec,
                episodes(),
                store=TrajectoryStore(folder / TRAJECTORIES),
                progress=name if s.progress else None,
            )
            return summarise(trajectories).to_json()

        settings = {
            "env": s.env,
            "env_kwargs": {**s.env_kwargs(), **(env_options or {})},
            "split": split,
            "seed": s.seed,
            "prompt_style": s.prompt_style,
            "version": eto_gym.__version__,
            **depends_on,
        }
        return self.folder.run(name, work, settings=settings, inputs=inputs)

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
            slots=s.slots,
            workers=workers or s.workers,
        )

    def _plan(self, split: str, tasks: int, samples: int = 1) -> Callable[[], list[Episode]]:
        def plan() -> list[Episode]:
            return plan_episodes(
                self._task_ids(split, tasks), samples=samples, seed=self.settings.seed
            )

        return plan

    def _task_ids(self, split: str, count: int) -> tuple[str, ...]:
        """Return the ids of `count` tasks of a split in an order fixed by the seed; 0: all."""
        if split not in self.tasks:
            env = gym.make(self.settings.env, **{**self.settings.env_kwargs(), "split": split})
            self.tasks[split] = text_env(env).task_set
            env.close()
        ids = self.tasks[split].shuffle(self.settings.seed).ids
        return ids[:count] if count else ids

    def _policy_maker(self, model: Stage, name: str, *, temperature: float) -> Callable[[], Policy]:
        s = self.settings
        return functools.partial(
            local_policy,
            self._model(model),
            name=name,
            temperature=temperature,
            max_new_tokens=s.max_new_tokens,
            context=s.max_context,
        )

    @staticmethod
    def _model(stage: Stage) -> str:
        """Return the path or name of the model that a stage made or names."""
        if stage.name == "model":
            return str(stage.result["model"])
        return str(stage.path / "model")

    @staticmethod
    def _load(stage: Stage) -> list[Trajectory]:
        return TrajectoryStore(stage.path / TRAJECTORIES).load()

    @staticmethod
    def _write_pairs(folder: Path, pairs: Iterable[PreferencePair]) -> None:
        write_json(folder / PAIRS, [to_paper_dpo(pair) for pair in pairs])

    @staticmethod
    def _load_pairs(stage: Stage) -> list[PreferencePair]:
        pairs = [read_pair(record) for record in read_records(stage.path / PAIRS)]
        if not pairs:
            raise EtoGymError(
                f"no pair to learn from: {stage.result}. Explore more tasks or samples"
            )
        return pairs

    def _report(self) -> dict[str, Any]:
        s, policies = self.settings, self._evaluated
        named = self.reference or policies[0][0]
        reference = next(evaluation for label, _, evaluation in policies if label == named)
        before = self._load(reference)
        control = next((x for label, _, x in policies if label == CONTROL), None)
        rows = []
        for label, model, evaluation in policies:
            row = {
                "policy": label,
                **evaluation.result,
                "train_seconds": model.seconds,
                "eval_seconds": evaluation.seconds,
            }
            if evaluation is not reference:
                row["paired"] = asdict(compare(before, self._load(evaluation)))
            if control is not None and model.name.startswith(f"{self.method}-"):
                row["paired_with_control"] = asdict(
                    compare(self._load(control), self._load(evaluation))
                )
            rows.append(row)
        return {
            "method": self.method,
            "env": s.env,
            "env_kwargs": s.env_kwargs(),
            "preset": s.preset,
            "model": s.model,
            "seed": s.seed,
            "reference": named,
            "policies": rows,
            "stages": [
                {"name": x.name, "seconds": x.seconds, "reused": x.reused, "result": x.result}
                for x in self.folder.stages
            ],
        }
