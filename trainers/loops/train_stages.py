"""The stages of a loop that make models; all processes of a loop train together."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eto_gym.agents.policies import expert_policy, player_policy
from eto_gym.files import write_json
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import (
    MODEL,
    NothingToLearn,
    is_demonstration,
    load_pairs,
    load_trajectories,
    model_of,
)
from eto_gym.trainers.loops.tiny_stage import train_base
from eto_gym.trainers.methods.dpo import run_dpo
from eto_gym.trainers.methods.sft import run_sft
from eto_gym.trainers.run.watch import Watch
from eto_gym.trainers.settings.base import TrainSettings, deciding, known_before
from eto_gym.trainers.settings.methods import DPOSettings, SFTSettings
from eto_gym.trajectories.formats import to_paper_sft


class TrainStages:
    """The stages that train."""

    def __init__(self, play: PlayStages) -> None:
        """Work in the run folder of `play`, which plays what has to be played."""
        self._play = play

    def start_model(self, *, evaluated: bool = True) -> Stage:
        """Return the model that training starts from, by default evaluated."""
        s = self._play.settings
        if s.model != "tiny":
            settings = {"model": s.model}
            stage = self._play.folder.run("model", lambda _: settings, settings=settings)
            label = f"untrained ({Path(s.model).name})"
        else:
            stage = self._base_model()
            label = "untrained (tiny, base stage only)"
        if evaluated:
            self._play.evaluate(label, "untrained", stage)
        return stage

    def _base_model(self) -> Stage:
        s = self._play.settings
        listed = {"admissible_actions": True} if self._play.lists_actions else {}
        play = self._play.rollouts(
            "base-play",
            player_policy,
            split=s.train_split,
            episodes=self._play.planned(s.train_split, s.base.tasks, s.base.samples),
            depends_on={
                **self._play.chosen(s.train_split, s.base.tasks),
                "samples": s.base.samples,
            },
            env_options={**listed, "max_episode_steps": s.base.steps},
        )

        def work(folder: Path) -> Any:
            played = load_trajectories(play)
            return train_base(s.base, played, output=folder / MODEL, processes=self._play.processes)

        decides = {**asdict(s.base), "train": known_before(s.base.train)}
        return self._play.folder.run("base", work, settings=decides, inputs=(play,))

    def sft(
        self,
        name: str,
        settings: SFTSettings,
        start: Stage,
        *demonstrations: Stage,
    ) -> Stage:
        """Fine-tune `start` on the successes among the trajectories of some stages.

        Raises:
            NothingToLearn: None of them is a success.
        """

        def work(folder: Path) -> Any:
            offered = load_trajectories(*demonstrations)
            chosen = [t for t in offered if is_demonstration(t)]
            if not chosen:
                names = " and ".join(stage.name for stage in demonstrations)
                raise NothingToLearn(
                    f"{name} has no successful trajectory to learn from: none of the "
                    f"{len(offered)} of {names} is one. Demonstrate or explore more tasks"
                )
            rows = [replace(t, messages=talk) for t in chosen for talk in t.as_sampled()]
            self._play.processes.first(
                lambda: write_json(folder / "sft.json", [to_paper_sft(row) for row in rows])
            )
            report = run_sft(
                settings,
                chosen,
                model=model_of(start),
                output=folder / MODEL,
                resume=True,
                watch=Watch(progress=self._play.settings.progress),
            )
            return asdict(report)

        return self._play.folder.run(
            name, work, settings=deciding(settings), inputs=(start, *demonstrations)
        )

    def prefer(self, name: str, settings: DPOSettings, model: Stage, pairs: Stage) -> Stage:
        """Train `model` on the pairs of a stage."""

        def work(folder: Path) -> Any:
            report = run_dpo(
                settings,
                load_pairs(pairs),
                model=model_of(model),
                output=folder / MODEL,
                resume=True,
                watch=self.watch(model, settings),
            )
            return asdict(report)

        return self._play.folder.run(
            name, work, settings=self.watched(settings), inputs=(model, pairs)
        )

    def watch(self, model: Stage, settings: TrainSettings) -> Watch:
        """Watch the training of `model` by its success on dev tasks, where some are set aside.

        They are read as the model will read when it has been trained: by the chat template of the
        run, or else by the one that the training gives it.
        """
        s = self._play.settings
        dev = self._play.dev_ids()
        if not dev:
            return Watch(progress=s.progress)
        from eto_gym.trainers.loops.dev_success import DevSuccess

        score = DevSuccess(
            self._play.spec(expert_policy, s.dev_split, workers=1),
            dev,
            tokenizer=model_of(model),
            max_new_tokens=s.max_new_tokens,
            context=s.max_context,
            seed=s.seed,
            template_kwargs=(s if s.chat_template else settings).template_kwargs,
            chat_template=s.chat_template or settings.chat_template,
        )
        return Watch(progress=s.progress, on_evaluate=score, every=s.dev_every, patience=s.patience)

    def watched(self, settings: TrainSettings) -> dict[str, Any]:
        """Return what decides the result of a training that `_watch` watches."""
        s = self._play.settings
        if not s.dev_tasks:
            return deciding(settings)
        dev = [s.dev_split, s.dev_tasks, s.dev_every, s.patience]
        return {**deciding(settings), "dev": dev, **self._play.limits}
