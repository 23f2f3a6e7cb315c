"""The ETO loop: demonstrate, fine-tune, explore, pair failures with successes, prefer, repeat.

Source: Song et al., "Trial and Error: Exploration-Based Trajectory Optimization for LLM Agents",
ACL 2024 (https://arxiv.org/abs/2403.02502), algorithm 1.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

import eto_gym
from eto_gym.agents.collect import RolloutSpec, collect
from eto_gym.agents.evaluation import compare, summarise
from eto_gym.agents.policies import expert_policy, local_policy, player_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout import plan_episodes
from eto_gym.errors import EtoGymError
from eto_gym.files import write_json
from eto_gym.tasks import TaskSet
from eto_gym.testing import text_env
from eto_gym.trainers.base import train_base
from eto_gym.trainers.dpo import run_dpo
from eto_gym.trainers.eto_settings import ETOSettings
from eto_gym.trainers.pairing import make_pairs
from eto_gym.trainers.report import write_report
from eto_gym.trainers.run_folder import FINISHED, RunFolder, Stage
from eto_gym.trainers.sft import SFTSettings, run_sft
from eto_gym.trainers.training import Watch
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import (
    read_demonstration,
    read_pair,
    read_records,
    to_paper_dpo,
    to_paper_sft,
)

logger = logging.getLogger(__name__)

TRAJECTORIES = "trajectories.jsonl"
PAIRS = "pairs.json"


class ETOLoop:
    """One run of the loop in a run folder; every stage is done once, however often it is started.

    Example, without the command line:

        settings = preset("quickstart", env="ETO/ALFWorld-v0")
        report = ETOLoop(settings, "runs/first").run()
    """

    def __init__(self, settings: ETOSettings, out: str | Path) -> None:
        """Prepare a run.

        Args:
            settings: What to run.
            out: The run folder; one that holds finished stages of the same settings is continued.
        """
        self.settings = settings
        self.folder = RunFolder(out)
        self.tasks: dict[str, TaskSet] = {}

    def run(self) -> dict[str, Any]:
        """Run all stages and return the report, which is also written to the run folder."""
        s = self.settings
        write_json(self.folder.path / "config.json", s.to_json())
        policies: list[tuple[str, Stage, Stage]] = []  # label, model stage, evaluation stage

        def evaluated(label: str, name: str, model: Stage) -> None:
            policies.append((label, model, self._evaluate(name, model)))

        start, label = self._start_model()
        evaluated(label, "untrained", start)
        experts = self._experts()
        sft = self._sft("sft", start, experts)
        evaluated("SFT", "sft", sft)
        current = sft
        for i in range(1, s.iterations + 1):
            explored = self._explore(f"explore-{i}", current)
            pairs = self._pair(f"pairs-{i}", experts, explored)
            current = self._prefer(f"eto-{i}", current, pairs)
            evaluated(f"ETO, iteration {i}", f"eto-{i}", current)
        if s.control:
            epochs = s.control_epochs or s.sft.epochs
            control = self._sft("control", sft, experts, replace(s.sft, epochs=epochs))
            evaluated("control: SFT continued", "control", control)
        report = self._report(policies)
        write_report(self.folder.path, report)
        write_json(self.folder.path / FINISHED, {"stages": [x.key for x in self.folder.stages]})
        return report

    # --- stages ---------------------------------------------------------------------------------

    def _start_model(self) -> tuple[Stage, str]:
        s = self.settings
        if s.model != "tiny":
            settings = {"model": s.model}
            return (
                self.folder.run("model", lambda _: settings, settings=settings),
                f"untrained ({Path(s.model).name})",
            )
        play = self._rollouts(
            "base-play",
            player_policy,
            split=s.train_split,
            tasks=s.base.tasks,
            samples=s.base.samples,
            env_options={"admissible_actions": True, "max_episode_steps": s.base.steps},
        )

        def work(folder: Path) -> Any:
            return train_base(s.base, self._load(play), output=folder / "model")

        stage = self.folder.run("base", work, settings=asdict(s.base), inputs=(play,))
        return stage, "untrained (tiny, base stage only)"

    def _experts(self) -> Stage:
        s = self.settings
        if not s.expert_file:
            return self._rollouts(
                "experts", expert_policy, split=s.train_split, tasks=s.train_tasks
            )
        path = Path(s.expert_file)

        def work(folder: Path) -> Any:
            with TrajectoryStore(folder / TRAJECTORIES) as store:
                known = {trajectory.key for trajectory in store.load()}
                for record in read_records(path, strict=s.strict):
                    trajectory = (
                        Trajectory.from_json(record)
                        if "messages" in record and "steps" in record
                        else read_demonstration(record)
                    )
                    if trajectory.key not in known:
                        store.add(trajectory)
                return summarise(store.load()).to_json()

        stamp = path.stat()
        settings = {"file": str(path.resolve()), "size": stamp.st_size, "mtime": stamp.st_mtime_ns}
        return self.folder.run("experts", work, settings=settings)

    def _sft(
        self, name: str, start: Stage, experts: Stage, settings: SFTSettings | None = None
    ) -> Stage:
        settings = settings or self.settings.sft

        def work(folder: Path) -> Any:
            demonstrations = [t for t in self._load(experts) if t.success]
            if not demonstrations:
                raise EtoGymError("there is no successful expert trajectory to learn from")
            write_json(folder / "sft.json", [to_paper_sft(t) for t in demonstrations])
            report = run_sft(
                settings,
                demonstrations,
                model=self._model(start),
                output=folder / "model",
                resume=True,
                watch=Watch(progress=self.settings.progress),
            )
            return asdict(report)

        return self.folder.run(name, work, settings=asdict(settings), inputs=(start, experts))

    def _explore(self, name: str, model: Stage) -> Stage:
        s = self.settings
        return self._rollouts(
            name,
            self._policy_maker(model, name, temperature=s.explore_temperature),
            split=s.train_split,
            tasks=s.explore_tasks or s.train_tasks,
            samples=s.explore_samples,
            inputs=(model,),
            settings={"temperature": s.explore_temperature},
        )

    def _pair(self, name: str, experts: Stage, explored: Stage) -> Stage:
        def work(folder: Path) -> Any:
            pairs, report = make_pairs(
                self._load(explored), self._load(experts), self.settings.pairing
            )
            write_json(folder / PAIRS, [to_paper_dpo(pair) for pair in pairs])
            return {**asdict(report), "skipped": dict(report.skipped)}

        return self.folder.run(
            name, work, settings=asdict(self.settings.pairing), inputs=(experts, explored)
        )

    def _prefer(self, name: str, model: Stage, pairs: Stage) -> Stage:
        def work(folder: Path) -> Any:
            loaded = [read_pair(record) for record in read_records(pairs.path / PAIRS)]
            if not loaded:
                raise EtoGymError(
                    f"no pair to learn from: {pairs.result}. Explore more tasks or samples"
                )
            report = run_dpo(
                self.settings.dpo,
                loaded,
                model=self._model(model),
                output=folder / "model",
                resume=True,
                watch=Watch(progress=self.settings.progress),
            )
            return asdict(report)

        return self.folder.run(
            name, work, settings=asdict(self.settings.dpo), inputs=(model, pairs)
        )

    def _evaluate(self, name: str, model: Stage) -> Stage:
        s = self.settings
        return self._rollouts(
            f"eval-{name}",
            self._policy_maker(model, name, temperature=0.0),
            split=s.eval_split,
            tasks=s.eval_tasks,
            inputs=(model,),
        )

    # --- what the stages share --------------------------------------------------------------------

    def _rollouts(
        self,
        name: str,
        make_policy: Callable[[], Policy],
        *,
        split: str,
        tasks: int,
        samples: int = 1,
        env_options: dict[str, Any] | None = None,
        inputs: tuple[Stage, ...] = (),
        settings: dict[str, Any] | None = None,
    ) -> Stage:
        s = self.settings
        spec = RolloutSpec(
            s.env,
            make_policy,
            env_kwargs={**s.env_kwargs(), "split": split, **(env_options or {})},
            prompt_style=s.prompt_style,
            slots=s.slots,
            workers=s.workers,
        )

        def work(folder: Path) -> Any:
            episodes = plan_episodes(self._task_ids(split, tasks), samples=samples, seed=s.seed)
            trajectories = collect(
                spec,
                episodes,
                store=TrajectoryStore(folder / TRAJECTORIES),
                progress=name if s.progress else None,
            )
            return summarise(trajectories).to_json()

        depends_on = {
            "env": s.env,
            "env_kwargs": {**s.env_kwargs(), **(env_options or {})},
            "split": split,
            "tasks": tasks,
            "samples": samples,
            "seed": s.seed,
            "prompt_style": s.prompt_style,
            "version": eto_gym.__version__,
            **(settings or {}),
        }
        return self.folder.run(name, work, settings=depends_on, inputs=inputs)

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

    def _report(self, policies: list[tuple[str, Stage, Stage]]) -> dict[str, Any]:
        reference = next(x for label, _, x in policies if label == "SFT")
        before = self._load(reference)
        rows = []
        for label, model, evaluation in policies:
            row = {
                "policy": label,
                **evaluation.result,
                "train_seconds": model.seconds,
                "eval_seconds": evaluation.seconds,
            }
            if evaluation is not reference:
                row["against_sft"] = asdict(compare(before, self._load(evaluation)))
            rows.append(row)
        return {
            "env": self.settings.env,
            "env_kwargs": self.settings.env_kwargs(),
            "preset": self.settings.preset,
            "model": self.settings.model,
            "seed": self.settings.seed,
            "policies": rows,
            "stages": [
                {"name": x.name, "seconds": x.seconds, "reused": x.reused, "result": x.result}
                for x in self.folder.stages
            ],
        }
