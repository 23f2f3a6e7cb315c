"""PPO's rounds: rollouts, scores, advantages, batches for each process."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch.utils.data import IterableDataset

from eto_gym.errors import DataError, EtoGymError
from eto_gym.trainers.data.batching import pad_rows
from eto_gym.trainers.data.encoding import (
    Codec,
    TokenReport,
    TokenRow,
    encode_trajectories,
    one_row,
)
from eto_gym.trainers.methods.player import Play
from eto_gym.trainers.methods.ppo_losses import advantages_of, turn_numbers
from eto_gym.trainers.model.scoring import without_dropout
from eto_gym.trainers.settings.methods import PPOSettings
from eto_gym.trajectories import Trajectory


class Scores(NamedTuple):
    """What the models said of one episode, on the CPU.

    Attributes:
        logps: Log-probability of every trained token under the policy that played.
        values: Value before every turn.
        reference: Log-probability of every trained token under the reference; None without one.
    """

    logps: torch.Tensor
    values: torch.Tensor
    reference: torch.Tensor | None


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

    row: TokenRow
    turns: torch.Tensor
    rewards: torch.Tensor
    logps: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


@dataclass(slots=True)
class _Part:
    """What one process played in a round, and what it made of that."""

    rows: list[TokenRow]
    rewards: list[list[float]]
    scores: list[Scores]
    outcomes: list[tuple[bool, float, int]]  # success, reward, turns
    errors: list[str]
    report: TokenReport


@dataclass(slots=True)
class _Step:
    """What may end with an optimizer step."""

    ends_pass: bool
    ends_round: bool


class Rounds(IterableDataset[dict[str, Any]]):
    """Yields the micro-batches of this process; a round is played when its first one is asked for.

    Every process holds the scored episodes of all, so all deal the same batches without a word.

    Attributes:
        done: Rounds that are over.
        over: Whether the last optimizer step ended a round.
        data: What tokenisation did.
        tokens_seen: Tokens of the rows that were dealt to this process.
        entry: How the episodes of the last round went.
    """

    def __init__(
        self,
        settings: PPOSettings,
        play: Play,
        codec: Codec,
        trainer: Any,
        pad_id: int,
        data: TokenReport,
    ) -> None:
        """Prepare.

        Args:
            settings: How to play and to learn.
            play: Plays episodes of a round.
            codec: Tokenises them.
            trainer: The `PPOTrainer`, which scores.
            pad_id: Token that fills short rows.
            data: Where what tokenisation did is counted.
        """
        self.done = 0
        self.over = False
        self.data = data
        self.tokens_seen = 0
        self.entry: dict[str, Any] = {}
        self._settings = settings
        self._play = play
        self._codec = codec
        self._trainer = trainer
        self._pad_id = pad_id
        self._step = _Step(ends_pass=False, ends_round=False)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, JSON-serialisable."""
        return {"done": self.done, "data": dataclasses.asdict(self.data)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.done = state["done"]
        self.data.include(TokenReport.from_json(state["data"]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Play, then yield the micro-batches of the passes over what was played."""
        while self.done < self._settings.rounds:
            played = self._begin()
            for batch in self._plan(len(played)):
                yield from self._deal([played[i] for i in batch])
                if self.over:
                    break

    def end_step(self, kl: float, *, last: bool) -> bool:
        """Take note that the optimizer made a step; return whether the round ends with it.

        Args:
            kl: How far the policy is from the one that played, in nats per token of that step.
            last: Whether this is the last step of all.
        """
        limit = self._settings.target_kl
        moved = self._step.ends_pass and 0 < limit < kl
        self.over = last or moved or self._step.ends_round
        self.done += self.over
        return self.over

    # --- playing ---------------------------------------------------------------------------------

    def _begin(self) -> list[Played]:
        """Play a round together with the other processes; note how it went as `entry`."""
        parts: list[_Part] = gather_object([self._play_part()])
        for part in parts:
            self.data.include(part.report)
        rows = [row for part in parts for row in part.rows]
        outcomes = [outcome for part in parts for outcome in part.outcomes]
        errors = Counter(kind for part in parts for kind in part.errors)
        if not rows:
            raise EtoGymError(f"round {self.done + 1} has no episode to learn from: {dict(errors)}")
        rewards = [earned for part in parts for earned in part.rewards]
        scores = [scored for part in parts for scored in part.scores]
        played, moved = estimate(rows, rewards, scores, self._settings)
        means = [sum(column) / len(outcomes) for column in zip(*outcomes, strict=True)]
        self.entry = {
            **dict(zip(("success", "reward", "turns"), means, strict=True)),
            "errors": errors.total(),
            "kl_reference": moved,
        }
        return played

    def _play_part(self) -> _Part:
        """Play the episodes of this process, with the seeds that one process would give them."""
        trainer, count = self._trainer, self._settings.episodes
        rank, world = trainer.args.process_index, trainer.args.world_size
        share = range(rank * count // world, (rank + 1) * count // world)
        with without_dropout(trainer.model):
            played = self._play(trainer.bare, self._codec, self.done, share)
        whole = [t for t in played if not t.failed_to_run]
        rows, rewards, report = self._encode(whole)
        return _Part(
            rows=rows,
            rewards=rewards,
            scores=trainer.score(rows),
            outcomes=[(t.success, t.reward, len(t.steps)) for t in whole],
            errors=[str(t.error) for t in played if t.failed_to_run],
            report=report,
        )

    def _encode(
        self, trajectories: Sequence[Trajectory]
    ) -> tuple[list[TokenRow], list[list[float]], TokenReport]:
        """Tokenise episodes; those without a whole turn within `max_length` are left out."""
        s = self._settings
        rows: list[TokenRow] = []
        rewards: list[list[float]] = []
        report = TokenReport()
        for trajectory in trajectories:
            trajectory.check_whole()
            try:
                encoded, data = encode_trajectories(
                    self._codec, [trajectory], max_length=s.max_length, truncation=s.truncation
                )
            except DataError:
                if s.truncation == "refuse":
                    raise
                report.dropped += 1
                continue
            rows.append(one_row(encoded))
            rewards.append(turn_rewards(trajectory, int(turn_numbers(encoded[0].mask)[-1]) + 1))
            report.include(data)
        return rows, rewards, report

    # --- dealing ---------------------------------------------------------------------------------

    def _plan(self, count: int) -> Iterator[list[int]]:
        """Yield the optimizer batches of a round of so many episodes; keep what ends with each."""
        s = self._settings
        for turn in range(int(s.epochs)):
            order = list(range(count))
            random.Random(f"{s.seed}:{self.done}:{turn}").shuffle(order)
            for start in range(0, count, s.batch_size):
                ends = start + s.batch_size >= count
                self._step = _Step(ends, ends and turn + 1 == int(s.epochs))
                yield order[start : start + s.batch_size]

    def _deal(self, batch: list[Played]) -> Iterator[dict[str, Any]]:
        """Yield this process's micro-batches of an optimizer batch, for every process as many."""
        args = self._trainer.args
        size = args.per_device_train_batch_size
        batch.sort(key=lambda episode: len(episode.row.ids))
        totals = {
            "tokens": sum(len(episode.logps) for episode in batch),
            "turns": sum(len(episode.returns) for episode in batch),
        }
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        own = parts[args.process_index :: args.world_size]
        for part in own:
            self.tokens_seen += sum(len(episode.row.ids) for episode in part)
            yield {**collate(part, self._pad_id), **totals}
        for _ in range(args.gradient_accumulation_steps - len(own)):
            yield self._filler(batch[0].row)

    def _filler(self, row: TokenRow) -> dict[str, Any]:
        """Return what is computed and does not count: as little as a model takes."""
        batch = pad_rows([TokenRow(row.ids[:2], [False, True])], self._pad_id)
        return {"input_ids": batch["input_ids"], "score": batch["labels"], "filler": True}


def collate(episodes: Sequence[Played], pad_id: int) -> dict[str, Any]:
    """Return the tensors of a micro-batch; those of tokens and turns are in the order of rows."""
    batch = pad_rows([episode.row for episode in episodes], pad_id)
    return {
        "input_ids": batch["input_ids"],
        "score": batch["labels"],
        "logps": torch.cat([episode.logps for episode in episodes]),
        "advantages": torch.cat([episode.advantages[episode.turns] for episode in episodes]),
        "values": torch.cat([episode.values for episode in episodes]),
        "returns": torch.cat([episode.returns for episode in episodes]),
    }


def estimate(
    rows: Sequence[TokenRow],
    rewards: Sequence[Sequence[float]],
    scores: Sequence[Scores],
    settings: PPOSettings,
) -> tuple[list[Played], float]:
    """Estimate the advantages of a round's episodes.

    Args:
        rows: Their tokens.
        rewards: The rewards of their turns.
        scores: What the models say of them.
        settings: The price of the divergence from the reference, the discounts, the scaling.

    Returns:
        The episodes, and the mean log-ratio to the reference per token.
    """
    moved, tokens = 0.0, 0
    played = []
    for row, earned, (logps, values, reference) in zip(rows, rewards, scores, strict=True):
        turns = turn_numbers(row.mask)
        reward = torch.tensor(earned, dtype=torch.float32)
        if reference is not None:
            ratio = logps - reference
            moved, tokens = moved + float(ratio.sum()), tokens + len(ratio)
            reward = reward.index_add(0, turns, -settings.kl_weight * ratio)
        advantages = advantages_of(
            reward, values, gamma=settings.gamma, gae_lambda=settings.gae_lambda
        )
        played.append(Played(row, turns, reward, logps, values, advantages, advantages + values))
    if settings.normalize_advantages:
        everything = torch.cat([episode.advantages for episode in played])
        spread = everything.std(correction=0) + 1e-8
        for episode in played:
            episode.advantages = (episode.advantages - everything.mean()) / spread
    return played, moved / max(1, tokens)


def turn_rewards(trajectory: Trajectory, turns: int) -> list[float]:
    """Return the rewards of the first `turns` turns; what a cut takes away is earned by the last.

    An episode that was cut for its length still has its outcome, and the turns that are left led
    to it.
    """
    earned = [step.reward for step in trajectory.steps]
    kept = earned[:turns]
    kept[-1] += sum(earned[turns:])
    return kept
