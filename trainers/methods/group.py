"""GRPO and RLOO by TRL, on our environments: several episodes of a task are compared with another.

Sources: Shao et al., "DeepSeekMath", 2024 (https://arxiv.org/abs/2402.03300) for GRPO; Ahmadian et
al., "Back to Basics", 2024 (https://arxiv.org/abs/2402.14740) for RLOO.

To TRL an episode is its first prompt and, as the completion, every token that the agent sampled in
it. What stands between these, and which prompt each reply was sampled from, it need not know: the
log-probabilities are computed from the episode's rows (see `data.sampled`), and laid out as TRL's
completions. GRPO takes episodes by its `rollout_func`; TRL 1.16's RLOO has no such entry, and there
they enter by a private method.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import set_seed

from eto_gym.agents.models.adapters import is_adapter
from eto_gym.conversation import episode_step_limit
from eto_gym.trainers.data.batching import IGNORED, pad_rows
from eto_gym.trainers.data.encoding import TokenReport, TokenRow
from eto_gym.trainers.data.sampled import EpisodeRows, encode_sampled
from eto_gym.trainers.methods.advantages import Mark, Play, assign, horizon, mark_states
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.methods.ppo import turns_of
from eto_gym.trainers.model import models
from eto_gym.trainers.model.scoring import without_dropout
from eto_gym.trainers.model.sharding import refuse_spread
from eto_gym.trainers.run import base_trainer
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.trl import QuietTRL, check_trl
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.methods import GroupSettings, refuse_turns
from eto_gym.trajectories import Trajectory

check_trl("GRPO and RLOO")

from trl.trainer.grpo_config import GRPOConfig  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.rloo_config import RLOOConfig  # noqa: E402
from trl.trainer.rloo_trainer import RLOOTrainer  # noqa: E402

ALGORITHMS = ("grpo", "rloo")


def run_group(
    algorithm: str,
    settings: GroupSettings,
    player: EpisodePlayer,
    *,
    model: str | Path,
    output: str | Path,
    plan: Any = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> TrainReport:
    """Train a model by GRPO or RLOO on the episodes that it plays.

    Args:
        algorithm: "grpo" or "rloo".
        settings: How to train.
        player: Plays the episodes with the model as it is.
        model: Folder or hub name of a causal language model, or folder of an adapter.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        plan: What the play depends on, JSON-serialisable: a run with another plan is not resumed.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated. By default a run starts anew.
        watch: Progress, scores during training, early stopping; by default a progress bar only.

    Returns:
        The report. Its metrics have TRL's entries ("reward", "kl", "completions/mean_length", ...)
        and "success". Its `data` counts the episodes played since the last start, as `seconds` do.

    Raises:
        SettingsError: There is no such algorithm, or `beta` has a price on the divergence from an
            adapter that would be merged.
        DataError: The folders cannot be used, or an episode is longer than `max_length` and
            `truncation` is "refuse".
        MissingDependencyError: The installed TRL is not the version that this code was made for.
    """
    if algorithm == "rloo":
        refuse_turns(settings)
    if algorithm not in ALGORITHMS:
        raise SettingsError(f"expected algorithm 'grpo' or 'rloo', got {algorithm!r}")
    if settings.beta and not settings.lora_r and is_adapter(model):
        raise SettingsError(
            f"with beta {settings.beta:g} TRL loads the model that training starts from once more, "
            f"and of {model} it would load the base without the adapter: set lora_r to go on "
            "with the adapter, set beta to 0, or start from what `eto-gym merge` makes of it"
        )
    with prepared(settings, model, output) as (tokenizer, codec):
        tokenizer.padding_side = "left"  # TRL asks for it
        source = EpisodeSource(player, codec, settings)

        def build(loaded: Any, workspace: Path) -> Any:
            trainer_class = PlayedGRPOTrainer if algorithm == "grpo" else PlayedRLOOTrainer
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that its entry for episodes is experimental
                trainer = trainer_class(
                    settings, model=loaded, source=source, tokenizer=tokenizer, workspace=workspace
                )
            refuse_spread(trainer, algorithm)
            return trainer

        return train(
            algorithm,
            settings,
            [],
            source.data,
            build=build,
            tokenizer=tokenizer,
            model=model,
            output=output,
            resume=resume,
            watch=watch,
            plan=plan,
        )


class EpisodeSource:
    """Plays the episodes of a batch, and keeps their tokens and rewards in order."""

    def __init__(self, player: EpisodePlayer, codec: Any, settings: GroupSettings) -> None:
        """Prepare."""
        self.player = player
        self.data = TokenReport()
        self.episodes: list[EpisodeRows] = []
        self.rewards: list[float | None] = []
        self.advantages: list[list[float]] = []
        self.tokens_seen = 0
        self._limit: int | None = None
        self._codec = codec
        self._settings = settings

    def play(self, task_ids: Sequence[str], trainer: Any) -> None:
        """Play one episode of every task named, with the trainer's model as it is.

        An episode that failed to run has no reward, which TRL leaves out of the comparison. Of
        several processes each plays its part of the tasks, with the seeds that one would give them.
        """
        s = self._settings
        wrapped = trainer.accelerator.unwrap_model(trainer.model)
        model = models.bare_model(wrapped)
        place = trainer.accelerator.process_index * len(task_ids)
        first = trainer.state.global_step * s.batch_size + place
        turns = self._most_turns(trainer)
        shorter = {} if turns is None else {"most_turns": turns}
        with without_dropout(wrapped):
            played = self.player.play(model, self._codec, task_ids, first, **shorter)
        self.episodes, report = encode_sampled(
            self._codec, played, max_length=s.max_length, truncation=s.truncation
        )
        self.rewards = [
            t.reward if episode.rows and not t.failed_to_run else None
            for t, episode in zip(played, self.episodes, strict=True)
        ]
        tokens = sum(episode.tokens for episode in self.episodes)
        self.tokens_seen += tokens
        results = [(t.success, len(t.steps)) for t in played]
        together: list[tuple[bool, int]] = []
        for other, some in gather_object([(report, results)]):
            self.data.include(other)
            together += some
        notes = trainer._metrics["train"]
        notes["success"].append(sum(success for success, _ in together) / len(together))
        notes["env_steps"].append(float(sum(steps for _, steps in together)))
        self._give_credit(played, trainer)

    def _most_turns(self, trainer: Any) -> int | None:
        s = self._settings
        if not s.horizon_start:
            return None
        if self._limit is None:
            env = self.player.conversation()
            self._limit = episode_step_limit(env) or 0
            env.close()
        step = trainer.state.global_step
        turns = horizon(
            step, first=s.horizon_start, growth=s.horizon_growth, most=self._limit or None
        )
        trainer._metrics["train"]["horizon"].append(float(turns or self._limit))
        return turns

    def _give_credit(self, played: Sequence[Trajectory], trainer: Any) -> None:
        """Credit every turn of the batch's episodes, those of all processes compared."""
        s = self._settings
        marks: list[tuple[Mark, ...]] = [() for _ in played]
        if s.advantage != "episode":
            env = self.player.conversation()
            try:
                marks = [
                    () if t.failed_to_run else mark_states(env, t, s.advantage) for t in played
                ]
            finally:
                env.close()
        own = [
            Play(t.task_id, reward, tuple(step.reward for step in t.steps), mark)
            for t, reward, mark in zip(played, self.rewards, marks, strict=True)
        ]
        plays = gather_object(own)
        credit = assign(
            plays, s.advantage, weight=s.advantage_weight, discount=s.advantage_discount
        )
        start = trainer.accelerator.process_index * len(own)
        self.advantages = credit.advantages[start : start + len(own)]
        notes = trainer._metrics["train"]
        notes["groups/without_contrast"].append(float(credit.dropped))
        if s.advantage != "episode":
            notes["turns/with_own_credit"].append(credit.known)

    def spread(self, like: torch.Tensor) -> torch.Tensor:
        """Return the advantage of every sampled token, laid out as completions are: (B, C)."""
        found = torch.zeros(like.shape)
        for i, (episode, turns) in enumerate(zip(self.episodes, self.advantages, strict=True)):
            if episode.rows and turns:
                numbers = turns_of(episode.rows)
                found[i, : len(numbers)] = torch.tensor(turns)[numbers]
        return found.to(like.device)

    def laid_out(self) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        """Return the prompts and the completions for TRL, and which of the latter were sampled.

        TRL needs a token on both sides: an episode without any has one that counts for nothing.
        """
        end = self._codec.end_of_turn_id
        prompts, completions, marks = [], [], []
        for episode in self.episodes:
            sampled = episode.trained
            row = episode.rows[0] if sampled else TokenRow([end], [True])
            prompts.append(row.ids[: row.mask.index(True)] or [end])
            completions.append(sampled or [end])
            marks.append([int(bool(sampled))] * max(1, len(sampled)))
        return prompts, completions, marks

    def score(self, prompts: Sequence[str], **_: Any) -> list[float | None]:
        """Return the rewards of the episodes played last: a reward function of TRL."""
        return self.rewards


def _arguments(settings: GroupSettings, workspace: Path) -> dict[str, Any]:
    return {
        **base_trainer.training_arguments(settings, workspace),
        "num_generations": settings.generations,
        "beta": settings.beta,
        "epsilon": settings.epsilon,
        "temperature": 1.0,
        "max_completion_length": settings.max_length,
    }


class _Played(QuietTRL, base_trainer.BaseTrainer):
    """What both trainers share; the tasks are the prompts."""

    _settings: GroupSettings
    _source: EpisodeSource
    _numbers: Sequence[int]

    def _prepare(
        self, settings: GroupSettings, model: Any, source: EpisodeSource, tokenizer: Any
    ) -> dict[str, Any]:
        self._settings = settings
        self._source = source
        adapted = hasattr(model, "peft_config")
        set_seed(settings.seed)  # for new adapters
        return {
            "model": model,
            "reward_funcs": source.score,
            "train_dataset": Dataset.from_dict({"prompt": list(source.player.task_ids)}),
            "processing_class": tokenizer,
            "peft_config": models.lora_config(settings)
            if settings.lora_r and not adapted
            else None,
        }

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._numbers = range(len(inputs))
        scored: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        # What episodes these are; is shuffled and split with the rest.
        scored["episode"] = torch.arange(len(inputs))
        if self._settings.advantage != "episode":
            self._credit_turns(scored)
        return scored

    def _credit_turns(self, scored: dict[str, Any]) -> None:
        """Give each token its turn's advantage; leave out episodes that nothing is learnt from."""
        mask = scored["completion_mask"]
        advantages = self._source.spread(mask)
        scored["advantages"] = advantages
        kept = (advantages != 0).any(dim=1, keepdim=True)
        name = "tool_mask" if "tool_mask" in scored else "completion_mask"
        scored[name] = scored[name] * kept
        counted = scored["completion_mask"] * scored.get("tool_mask", 1)
        scored["num_items_in_batch"] = self.accelerator.gather(counted.sum()).sum()

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._numbers = inputs["episode"].tolist()
        loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Score what was sampled in episodes, each token after what was read before it.

        TRL's own method scores its completions (B, C) after its prompts; this one fills the same
        places from the rows of the episodes that `self._numbers` names, with zeros elsewhere.
        """
        tokenizer: Any = self.processing_class
        end = tokenizer.pad_token_id
        # An episode without a token to learn from keeps its place, and processes keep in step.
        filler = [TokenRow([end, end], [False, False])]
        parts = [self._source.episodes[number].rows or filler for number in self._numbers]
        rows = [row for part in parts for row in part]
        routers = {"output_router_logits": True} if compute_aux_loss else {}
        logps, entropies, losses = [], [], []
        size = batch_size or len(rows)
        for start in range(0, len(rows), size):
            batch = pad_rows(rows[start : start + size], end)  # (R, T)
            batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
            with self.accelerator.autocast():
                found = model(**batch, fused_lm_head=True, **routers)
            kept = batch["labels"][:, 1:] != IGNORED
            logps.append(found.log_probs[kept])
            if compute_entropy:
                entropies.append(found.entropy[kept])
            if compute_aux_loss:
                losses.append(found.aux_loss)
        counts = [sum(row.trained for row in part) for part in parts]

        def lay_out(values: list[torch.Tensor]) -> torch.Tensor:
            # One value for every sampled token, episode by episode -> (B, C).
            places = torch.arange(logits_to_keep) < torch.tensor(counts)[:, None]
            flat = torch.cat(values)
            return flat.new_zeros(places.shape).masked_scatter(places.to(flat.device), flat)

        return (
            lay_out(logps),
            lay_out(entropies) if compute_entropy else None,
            torch.stack(losses).mean() if compute_aux_loss else None,
        )

    @property
    def tokens_seen(self) -> int:
        """Tokens of all episodes so far."""
        return self._source.tokens_seen


class PlayedGRPOTrainer(_Played, GRPOTrainer):
    """TRL's GRPO on whole episodes."""

    def __init__(
        self,
        settings: GroupSettings,
        *,
        model: Any,
        source: EpisodeSource,
        tokenizer: Any,
        workspace: Path,
    ) -> None:
        """Prepare TRL's trainer."""

        def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
            source.play(prompts, trainer)
            before, sampled, marks = source.laid_out()
            return {
                "prompt_ids": before,
                "completion_ids": sampled,
                "env_mask": marks,
                "logprobs": None,  # the trainer scores the tokens itself
            }

        super().__init__(
            **self._prepare(settings, model, source, tokenizer),
            args=GRPOConfig(**_arguments(settings, workspace)),
            rollout_func=rollout,
        )


class PlayedRLOOTrainer(_Played, RLOOTrainer):
    """TRL's RLOO on whole episodes."""

    def __init__(
        self,
        settings: GroupSettings,
        *,
        model: Any,
        source: EpisodeSource,
        tokenizer: Any,
        workspace: Path,
    ) -> None:
        """Prepare TRL's trainer."""
        super().__init__(
            **self._prepare(settings, model, source, tokenizer),
            args=RLOOConfig(**_arguments(settings, workspace)),
        )

    def _generate(self, prompts: list[str]) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """Play instead of generating one reply."""
        self._source.play(prompts, self)
        before, sampled, _ = self._source.laid_out()
        tokenizer: Any = self.processing_class
        return before, sampled, tokenizer.batch_decode(sampled)
