"""GRPO and RLOO by TRL, on our environments: several episodes of a task are compared with another.

Sources: Shao et al., "DeepSeekMath", 2024 (https://arxiv.org/abs/2402.03300) for GRPO; Ahmadian et
al., "Back to Basics", 2024 (https://arxiv.org/abs/2402.14740) for RLOO.

To TRL an episode is its first prompt and, as the completion, every token that the agent sampled in
it. What stands between these, and which prompt each reply was sampled from, it need not know: the
log-probabilities are computed from the episode's rows (see `data.sampled`), those of a micro-batch
in a tree where they begin alike (see `row_forests`), and laid out as TRL's completions. GRPO takes
episodes by its `rollout_func`; TRL 1.16's RLOO has no such entry, and there they enter by a private
method.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import set_seed

from eto_gym.agents.models.adapters import is_adapter
from eto_gym.trainers.data.batching import IGNORED, PassSampler, pad_rows
from eto_gym.trainers.data.encoding import TokenRow
from eto_gym.trainers.methods.episode_source import EpisodeSource, KeepCounts
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.methods.row_forests import TREE_ROWS, RowForests
from eto_gym.trainers.model import models
from eto_gym.trainers.model.sharding import refuse_spread
from eto_gym.trainers.run import base_trainer
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.trl import QuietTRL, check_trl
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.methods import GroupSettings, refuse_turns

check_trl("GRPO and RLOO")

from trl.trainer.grpo_config import GRPOConfig  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.rloo_config import RLOOConfig  # noqa: E402
from trl.trainer.rloo_trainer import RLOOTrainer  # noqa: E402

logger = logging.getLogger(__name__)

ALGORITHMS = ("grpo", "rloo")

ROUTERS = "the loss of its routers counts every token of every row"
"""Why experts that are balanced by a loss of their own share no beginnings."""


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
        and "success". Its `data` counts the episodes of all steps, those before a resume included.

    Raises:
        SettingsError: There is no such algorithm, or `beta` has a price on the divergence from an
            adapter that would be merged; or the player has no task.
        DataError: The folders cannot be used, or an episode is longer than `max_length` and
            `truncation` is "refuse".
        MissingDependencyError: The installed TRL is not the version that this code was made for.
    """
    if algorithm == "rloo":
        refuse_turns(settings)
    if algorithm not in ALGORITHMS:
        raise SettingsError(f"expected algorithm 'grpo' or 'rloo', got {algorithm!r}")
    if not player.task_ids:
        raise SettingsError(f"{algorithm} learns from tasks, and there is none to play")
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
                return trainer_class(
                    settings, model=loaded, source=source, tokenizer=tokenizer, workspace=workspace
                )

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

    algorithm: str
    _settings: GroupSettings
    _source: EpisodeSource
    _numbers: Sequence[int]
    _order: Sequence[int]
    _repeated = ""
    # TRL's own.
    _buffered_inputs: Any
    _step: int
    aux_loss_enabled: bool
    ref_model: Any

    def _prepare(
        self, settings: GroupSettings, model: Any, source: EpisodeSource, tokenizer: Any
    ) -> dict[str, Any]:
        self._settings = settings
        self._source = source
        adapted = hasattr(model, "peft_config")
        set_seed(settings.seed)  # for new adapters
        # TRL leaves out what does not fill a batch, which of few tasks would be all of them.
        tasks = source.player.task_ids
        repeats = settings.repeats(len(tasks))
        if repeats > 1:
            groups = settings.batch_size // settings.generations
            self._repeated = f"of a batch's {groups} groups several play one of the {len(tasks)}"
            logger.info("%s: %s tasks", self.algorithm, self._repeated)
        return {
            "model": model,
            "reward_funcs": source.score,
            "callbacks": [KeepCounts(self, source.data)],
            "train_dataset": Dataset.from_dict({"prompt": list(tasks) * repeats}),
            "processing_class": tokenizer,
            "peft_config": models.lora_config(settings)
            if settings.lora_r and not adapted
            else None,
        }

    def _prepare_sharing(self, tokenizer: Any) -> None:
        """Let the model and the reference that TRL has loaded compute common beginnings once.

        Raises:
            SettingsError: The weights are spread over devices.
        """
        refuse_spread(self, self.algorithm)
        self._forests = RowForests(
            self,
            models.bare_model(self.model),
            self._settings.share_prefix,
            pad_id=tokenizer.pad_token_id,
            obstacle=ROUTERS if self.aux_loss_enabled else None,
        )
        if self.ref_model is not None:
            self._forests.sharing.follow(self.accelerator.unwrap_model(self.ref_model))
        self.notes = self._forests.sharing.notes
        if self._repeated:
            self.notes["tasks"] = self._repeated

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        make: Any = super()._get_train_sampler
        return PassSampler(lambda: make(dataset), lambda: int(self.state.epoch or 0))

    def _play(self, tasks: Sequence[str]) -> None:
        """Play the episodes of an optimizer step, and decide on the layout of their rows."""
        self._source.play(tasks, self)
        rows = [episode.rows for episode in self._source.episodes]
        self._forests.decide(rows, self.args.per_device_train_batch_size)
        self._order = self._forests.order(rows, range(len(rows)))

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or not self._buffered_inputs:
            return inputs
        self._buffered_inputs = regrouped(self._buffered_inputs, self._order)
        return self._buffered_inputs[self._step % len(self._buffered_inputs)]

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
        Entropies have no gradient where rows share their beginnings: they are reported only.
        """
        tokenizer: Any = self.processing_class
        end = tokenizer.pad_token_id
        # An episode without a token to learn from keeps its place, and processes keep in step.
        filler = [TokenRow([end, end], [False, False])]
        parts = [self._source.episodes[number].rows or filler for number in self._numbers]
        rows = [row for part in parts for row in part]
        losses: list[torch.Tensor] = []
        if self._forests.on:
            most = len(rows) if batch_size is None else TREE_ROWS
            logps, entropies = self._forests.sampled(
                model, rows, most=most, entropies=compute_entropy
            )
        else:
            logps, entropies, losses = self._padded(
                model, rows, batch_size or len(rows), end, compute_entropy, compute_aux_loss
            )
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

    def _padded(
        self, model: Any, rows: Sequence[TokenRow], size: int, pad_id: int, entropy: bool, aux: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Score padded rows, `size` in a pass, by the output layer that TRL fuses with the loss."""
        routers = {"output_router_logits": True} if aux else {}
        logps, entropies, losses = [], [], []
        for start in range(0, len(rows), size):
            batch = pad_rows(rows[start : start + size], pad_id)  # (R, T)
            batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
            with self.accelerator.autocast():
                found = model(**batch, fused_lm_head=True, **routers)
            kept = batch["labels"][:, 1:] != IGNORED
            logps.append(found.log_probs[kept])
            if entropy:
                entropies.append(found.entropy[kept])
            if aux:
                losses.append(found.aux_loss)
        return logps, entropies, losses

    @property
    def tokens_seen(self) -> int:
        """Tokens of all episodes so far."""
        return self._source.tokens_seen


class PlayedGRPOTrainer(_Played, GRPOTrainer):
    """TRL's GRPO on whole episodes."""

    algorithm = "grpo"

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
            trainer._play(prompts)
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
        self._prepare_sharing(tokenizer)


class PlayedRLOOTrainer(_Played, RLOOTrainer):
    """TRL's RLOO on whole episodes."""

    algorithm = "rloo"

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
        self._prepare_sharing(tokenizer)

    def _generate(self, prompts: list[str]) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """Play instead of generating one reply."""
        self._play(prompts)
        before, sampled, _ = self._source.laid_out()
        tokenizer: Any = self.processing_class
        return before, sampled, tokenizer.batch_decode(sampled)


def regrouped(parts: list[dict[str, Any]], order: Sequence[int]) -> list[dict[str, Any]]:
    """Return micro-batches of the same size with their episodes in another order.

    Args:
        parts: The micro-batches; of each value of an episode one row, what is said of all the same.
        order: The numbers of the episodes, as "episode" has them.
    """
    standing = torch.cat([part["episode"] for part in parts]).argsort()
    places = torch.split(standing[torch.tensor(order)], len(parts[0]["episode"]))

    def whole(name: str) -> Any:
        one = parts[0][name]
        return one if one is None or one.ndim == 0 else torch.cat([part[name] for part in parts])

    values = {name: whole(name) for name in parts[0]}
    return [
        {
            name: value if value is None or value.ndim == 0 else value[some]
            for name, value in values.items()
        }
        for some in places
    ]
