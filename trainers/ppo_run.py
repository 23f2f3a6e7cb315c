"""One run of PPO: rounds of playing and learning, and checkpoints between them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerControl, TrainerState, set_seed

from eto_gym.agents.adapters import is_adapter
from eto_gym.errors import DataError, EtoGymError
from eto_gym.files import replacing, write_json
from eto_gym.trainers import faults, models, running
from eto_gym.trainers.callbacks import COMPLETE, KeepBest, Watchers
from eto_gym.trainers.encoding import Codec, Row, TokenReport, encode_trajectories
from eto_gym.trainers.job import PlayJob, Watch
from eto_gym.trainers.ppo import Play, PPOSettings
from eto_gym.trainers.ppo_trainer import PPOLearner, turn_numbers
from eto_gym.trainers.training import TrainReport, finished, settle
from eto_gym.trajectories import Trajectory

STATE_FILE = "state.pt"
METRICS_FILE = "metrics.json"


def train_ppo(
    settings: PPOSettings, play: Play, job: PlayJob, tokenizer: Any, codec: Codec
) -> TrainReport:
    """Run the rounds; see `run_ppo`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise EtoGymError("PPO runs in one process; for several there is run_group")
    stamp = running.run_fingerprint(
        "ppo", settings, json.dumps(job.plan, sort_keys=True), models.hash_model(job.model)
    )
    if (done := finished(job, stamp)) is not None:
        return done
    workspace = running.open_workspace(job.folder, stamp, resume=job.resume)
    started = time.perf_counter()
    set_seed(settings.seed)
    learner = PPOLearner(
        settings,
        models.load_model(job.model, settings),
        tokenizer,
        reference=_reference(settings, job.model),
    )
    run = _Run(settings, learner, workspace, job.watched)
    with faults.disk_errors(workspace.path, "a checkpoint"):
        run.play(play, codec, progress=job.watched.progress)
    seconds = time.perf_counter() - started
    report = TrainReport(
        output=str(job.folder),
        steps=learner.steps,
        seconds=seconds,
        tokens_per_second=learner.tokens_seen / seconds,
        final_loss=float("nan"),
        data=run.data,
        metrics=run.metrics,
        fingerprint=stamp,
    )
    settle(report, Watchers(run.keeper, None), learner.model, "ppo")
    with faults.disk_errors(job.folder, "the trained model"):
        running.write_finished(learner.model, tokenizer, job.folder, "ppo", settings, report)
    workspace.remove()
    return report


def _reference(settings: PPOSettings, model: str | Path) -> Any:
    """Load the reference of the KL price, where one is needed besides the model itself."""
    if not settings.kl_weight or (settings.lora_r and not is_adapter(model)):
        return None
    return models.load_model(model, settings)


class _Run:
    """What a run has done so far, and its checkpoints."""

    def __init__(
        self, settings: PPOSettings, learner: PPOLearner, workspace: running.Workspace, watch: Watch
    ) -> None:
        self._settings = settings
        self._learner = learner
        self._workspace = workspace
        self._control = TrainerControl()
        self.metrics: list[dict[str, Any]] = []
        self.data = TokenReport()
        self.keeper: KeepBest | None = None
        if watch.on_evaluate is not None:
            self.keeper = KeepBest(
                watch.on_evaluate,
                workspace.path,
                every=watch.every or 1,
                patience=watch.patience,
            )

    @property
    def stopped(self) -> bool:
        """Whether the score no longer improves, or the optimizer took all its steps."""
        limit = self._settings.max_steps
        return self._control.should_training_stop or (0 < limit <= self._learner.steps)

    def restore(self) -> None:
        """Go on from the last whole checkpoint, or score the weights that training starts from."""
        checkpoint = self._workspace.last_checkpoint()
        if checkpoint is not None:
            state = torch.load(checkpoint / STATE_FILE, weights_only=True)
            self._learner.load_state(state)
            saved = json.loads((checkpoint / METRICS_FILE).read_text(encoding="utf-8"))
            self.metrics = saved["metrics"]
            self.data = TokenReport.from_json(saved["data"])
            if self.keeper is not None:
                self.keeper.restore(saved["scores"])
        self._score(0, "on_train_begin")

    def play(self, play: Play, codec: Codec, *, progress: bool) -> None:
        """Play and learn, round by round, from where the run is."""
        self.restore()
        rounds = range(len(self.metrics), self._settings.rounds)
        with tqdm(
            total=self._settings.rounds,
            initial=rounds.start,
            desc="PPO",
            unit="round",
            disable=None if progress else True,
        ) as bar:
            for number in rounds:
                if self.stopped:
                    break
                entry = self.round(number, play(self._learner.bare, codec, number), codec)
                bar.set_postfix(success=f"{entry['success']:.3f}", refresh=False)
                bar.update()

    def round(
        self, number: int, trajectories: Sequence[Trajectory], codec: Codec
    ) -> dict[str, Any]:
        """Learn from the episodes of a round, and save where it is time."""
        scored = [t for t in trajectories if not t.failed_to_run]
        rows, rewards = self._encode(scored, codec)
        if not rows:
            kinds = dict(Counter(str(t.error) for t in trajectories))
            raise EtoGymError(f"round {number + 1} has no episode to learn from: {kinds}")
        played, moved = self._learner.prepare(rows, rewards)
        entry = {
            "step": number + 1,
            "success": sum(t.success for t in scored) / len(scored),
            "reward": sum(t.reward for t in scored) / len(scored),
            "turns": sum(len(t.steps) for t in scored) / len(scored),
            "errors": len(trajectories) - len(scored),
            "kl_reference": moved,
            **self._learner.learn(played, number),
        }
        self.metrics.append(entry)
        self._score(number + 1, "on_step_end")
        every = self._settings.save_every
        if every and (number + 1) % every == 0 and number + 1 < self._settings.rounds:
            self._save(number + 1)
        return entry

    def _encode(
        self, trajectories: Sequence[Trajectory], codec: Codec
    ) -> tuple[list[Row], list[list[float]]]:
        """Tokenise episodes; those without a whole turn within `max_length` are left out."""
        s = self._settings
        rows, rewards = [], []
        for trajectory in trajectories:
            try:
                encoded, data = encode_trajectories(
                    codec, [trajectory], max_length=s.max_length, truncation=s.truncation
                )
            except DataError:
                if s.truncation == "refuse":
                    raise
                self.data.dropped += 1
                continue
            rows += encoded
            rewards.append(turn_rewards(trajectory, int(turn_numbers(encoded[0].mask)[-1]) + 1))
            self.data.include(data)
        return rows, rewards

    def _score(self, number: int, event: str) -> None:
        if self.keeper is not None:
            state = TrainerState(global_step=number)
            unused: Any = None
            getattr(self.keeper, event)(unused, state, self._control, model=self._learner.model)

    def _save(self, number: int) -> None:
        folder = self._workspace.path / f"checkpoint-{number}"
        folder.mkdir(exist_ok=True)
        with replacing(folder / STATE_FILE) as partial:
            torch.save(self._learner.state(), partial)
        write_json(
            folder / METRICS_FILE,
            {
                "metrics": self.metrics,
                "data": dataclasses.asdict(self.data),
                "scores": self.keeper.scores if self.keeper else [],
            },
        )
        (folder / COMPLETE).touch()
        # One more stays, in case this one's marker is not on disk when the power goes.
        kept = sorted(self._workspace.path.glob("checkpoint-*"), key=lambda p: p.stat().st_mtime)
        for old in kept[:-2]:
            shutil.rmtree(old)


def turn_rewards(trajectory: Trajectory, turns: int) -> list[float]:
    """Return the rewards of the first `turns` turns; what a cut takes away is earned by the last.

    An episode that was cut for its length still has its outcome, and the turns that are left led
    to it.
    """
    earned = [step.reward for step in trajectory.steps]
    kept = earned[:turns]
    kept[-1] += sum(earned[turns:])
    return kept
