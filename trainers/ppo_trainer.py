"""The learner behind PPO: turns as actions, tokens as ratios, a value before every turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eto_gym.trainers import models
from eto_gym.trainers.batching import IGNORED, pad_rows
from eto_gym.trainers.encoding import Row
from eto_gym.trainers.optimizers import build_optimizer, warmup_schedule
from eto_gym.trainers.ppo import PPOSettings, batches
from eto_gym.trainers.scoring import install_scorer, without_dropout


class ValueHead(torch.nn.Module):
    """Predicts what is still to be earned from the state before a turn; starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return one value per state."""
        values: torch.Tensor = self.linear(states.float()).squeeze(-1)
        return values


@dataclass(slots=True)
class Played:
    """One episode as the learner sees it; tensors have one entry per trained token or per turn.

    Attributes:
        row: Its tokens.
        turns: For every trained token, the number of its turn.
        rewards: Reward of every turn.
        logps: Log-probability of every trained token when it was played.
        values: Value before every turn, when it was played.
        advantages: Of every turn.
        returns: What the value head should have said before every turn.
    """

    row: Row
    turns: torch.Tensor
    rewards: torch.Tensor
    logps: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


def turn_numbers(mask: Sequence[bool]) -> torch.Tensor:
    """Return the number of its turn for every trained token: a run of marks is a turn."""
    starts = [kept and not before for before, kept in zip([False, *mask], mask, strict=False)]
    numbers = torch.tensor(starts).cumsum(0) - 1
    return numbers[torch.tensor(mask)]


def advantages_of(
    rewards: torch.Tensor, values: torch.Tensor, *, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Return the generalised advantage estimate of every turn of one episode, which ends there."""
    advantages = torch.zeros_like(rewards)
    ahead = torch.zeros(())
    for turn in reversed(range(len(rewards))):
        following = values[turn + 1] if turn + 1 < len(rewards) else 0.0
        surprise = rewards[turn] + gamma * following - values[turn]
        ahead = surprise + gamma * gae_lambda * ahead
        advantages[turn] = ahead
    return advantages


def policy_loss(
    logps: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PPO's clipped loss of every token, and whether its ratio was outside the clip."""
    ratios = torch.exp(logps - old)
    clipped = ratios.clamp(1 - clip, 1 + clip)
    losses = -torch.minimum(ratios * advantages, clipped * advantages)
    return losses, (ratios - 1).abs() > clip


def _bare(model: Any) -> Any:
    """Return the model without PEFT's wrapper; its layers keep their adapters."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


class PPOLearner:
    """The model with its value head, and one round of learning at a time."""

    def __init__(
        self, settings: PPOSettings, model: Any, tokenizer: Any, *, reference: Any = None
    ) -> None:
        """Prepare the model for scoring, and the optimizer.

        Args:
            settings: How to learn.
            model: What learns, without new adapters.
            tokenizer: Its tokenizer.
            reference: A copy of the model for the KL price; None where the price is 0, or where
                switching new adapters off gives the reference.
        """
        self.settings = settings
        if settings.lora_r and not hasattr(model, "peft_config"):
            from peft import get_peft_model

            model = get_peft_model(model, models.lora_config(settings))
        self.model = model
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not settings.qlora:
            self.model.to(self.device)
        self.bare = _bare(model)
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
            if hasattr(model, "peft_config"):
                model.enable_input_require_grads()
        install_scorer(self.bare)
        self._reference = reference
        if reference is not None:
            reference.to(self.device).eval().requires_grad_(False)
            install_scorer(
                reference.get_base_model() if hasattr(reference, "peft_config") else reference
            )
        self.head = ValueHead(self.bare.config.get_text_config().hidden_size).to(self.device)
        self._pad = tokenizer.pad_token_id
        self.optimizer = build_optimizer(model, settings)
        self.optimizer.add_param_group(
            {"params": list(self.head.parameters()), "lr": settings.value_learning_rate}
        )
        steps = -(-settings.episodes // settings.batch_size) * int(settings.epochs)
        self.scheduler = warmup_schedule(self.optimizer, settings, steps * settings.rounds)
        self.steps = 0
        self.tokens_seen = 0

    # --- scoring ---------------------------------------------------------------------------------

    def score(self, rows: Sequence[Row]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return, for every row, its tokens' log-probabilities and the values before its turns."""
        seen: list[torch.Tensor] = []
        hook = self.bare.base_model.register_forward_hook(
            lambda _, __, output: seen.append(output.last_hidden_state)
        )
        try:
            logps, trained = self._token_logps(self.model, rows)
        finally:
            hook.remove()
        (states,) = seen
        # The state that predicts the first token of a turn.
        before = trained[:, 1:] & ~trained[:, :-1]
        values = self.head(states[:, :-1][before])
        return logps, list(torch.split(values, before.sum(1).tolist()))

    def _token_logps(
        self, model: Any, rows: Sequence[Row]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the log-probabilities of each row's trained tokens, and which tokens these are."""
        batch = {name: x.to(self.device) for name, x in pad_rows(rows, self._pad).items()}
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=models.uses_bf16(self.settings)
        ):
            flat = model(input_ids=batch["input_ids"], score=batch["labels"])["token_logps"]
        trained = batch["labels"].ne(IGNORED)
        return list(torch.split(flat.float(), trained.sum(1).tolist())), trained

    @torch.no_grad()
    def _by_length(self, score: Callable[[Sequence[Row]], Any], rows: Sequence[Row]) -> list[Any]:
        """Score rows in order of length, without gradients; return them in the given order."""
        results: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        size = 2 * self.settings.micro_batch_size
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            scored = score([rows[i] for i in chunk])
            for i, *parts in zip(chunk, *scored, strict=True):
                results[i] = [part.cpu() for part in parts]
        return results

    def _reference_scores(self, rows: Sequence[Row]) -> list[Any]:
        """Return the log-probabilities under the model that training started from."""
        if self._reference is not None:
            reference = self._reference
            return self._by_length(lambda part: (self._token_logps(reference, part)[0],), rows)
        with self.model.disable_adapter():
            return self._by_length(lambda part: (self._token_logps(self.model, part)[0],), rows)

    def prepare(
        self, rows: Sequence[Row], rewards: Sequence[Sequence[float]]
    ) -> tuple[list[Played], float]:
        """Score played episodes and estimate their advantages.

        Args:
            rows: Their tokens.
            rewards: The rewards of their turns.

        Returns:
            The episodes, and the mean log-ratio to the reference per token.
        """
        s = self.settings
        moved, tokens = 0.0, 0
        played = []
        with without_dropout(self.model):
            scores = self._by_length(self.score, rows)
            references = self._reference_scores(rows) if s.kl_weight else [[None]] * len(rows)
        for row, earned, (old, value), (ref,) in zip(
            rows, rewards, scores, references, strict=True
        ):
            turns = turn_numbers(row.mask)
            reward = torch.tensor(list(earned[: len(value)]), dtype=torch.float32)
            if ref is not None:
                ratio = old - ref
                moved, tokens = moved + float(ratio.sum()), tokens + len(ratio)
                reward = reward.index_add(0, turns, -s.kl_weight * ratio)
            advantages = advantages_of(reward, value, gamma=s.gamma, gae_lambda=s.gae_lambda)
            played.append(Played(row, turns, reward, old, value, advantages, advantages + value))
        if s.normalize_advantages:
            everything = torch.cat([episode.advantages for episode in played])
            spread = everything.std(correction=0) + 1e-8
            for episode in played:
                episode.advantages = (episode.advantages - everything.mean()) / spread
        return played, moved / max(1, tokens)

    # --- learning --------------------------------------------------------------------------------

    def learn(self, played: Sequence[Played], number: int) -> dict[str, float]:
        """Take the optimizer steps of a round; return its mean metrics."""
        s = self.settings
        self.model.train()
        totals: dict[str, float] = {}
        steps = 0
        for epoch in range(int(s.epochs)):
            for batch in batches(len(played), s.batch_size, f"{s.seed}:{number}:{epoch}"):
                notes = self._step([played[i] for i in batch])
                steps += 1
                for name, value in notes.items():
                    totals[name] = totals.get(name, 0.0) + value
                if self._finished():
                    break
            if self._finished() or (s.target_kl and notes["kl"] > s.target_kl):
                break
        self.model.eval()
        return {name: value / steps for name, value in totals.items()}

    def _finished(self) -> bool:
        return bool(self.settings.max_steps) and self.steps >= self.settings.max_steps

    def _step(self, batch: list[Played]) -> dict[str, float]:
        s = self.settings
        batch.sort(key=lambda episode: len(episode.row.ids))
        tokens = sum(len(episode.logps) for episode in batch)
        turns = sum(len(episode.returns) for episode in batch)
        notes = dict.fromkeys(("loss", "value_loss", "kl", "clipped"), 0.0)
        for start in range(0, len(batch), s.micro_batch_size):
            micro = batch[start : start + s.micro_batch_size]
            self.tokens_seen += sum(len(episode.row.ids) for episode in micro)
            logps, values = (torch.cat(x) for x in self.score([episode.row for episode in micro]))
            old, returns, before = (
                torch.cat([getattr(episode, name) for episode in micro]).to(self.device)
                for name in ("logps", "returns", "values")
            )
            spread = torch.cat([episode.advantages[episode.turns] for episode in micro])
            losses, outside = policy_loss(logps, old, spread.to(self.device), s.clip)
            errors = (values - returns) ** 2
            if s.value_clip:
                held = before + (values - before).clamp(-s.value_clip, s.value_clip)
                errors = torch.maximum(errors, (held - returns) ** 2)
            loss = losses.sum() / tokens + s.value_weight * errors.sum() / turns
            loss.backward()  # type: ignore[no-untyped-call]
            moved = (logps - old).detach()
            notes["loss"] += float(losses.detach().sum()) / tokens
            notes["value_loss"] += float(errors.detach().sum()) / turns
            # Schulman's estimator of the divergence: never negative, low variance.
            notes["kl"] += float((torch.exp(moved) - 1 - moved).sum()) / tokens
            notes["clipped"] += float(outside.sum()) / tokens
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        notes["grad_norm"] = float(
            torch.nn.utils.clip_grad_norm_(weights, s.max_grad_norm or float("inf"))
        )
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return notes

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that decides how learning goes on."""
        return {
            "weights": {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad},
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "steps": self.steps,
            "random": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(state["weights"][name])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.steps = state["steps"]
        torch.set_rng_state(state["random"])
