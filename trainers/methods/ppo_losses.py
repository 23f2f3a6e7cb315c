"""PPO's arithmetic: what a turn earned, advantages, and the losses of policy and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from eto_gym.trainers.data.encoding import TokenRow
from eto_gym.trainers.methods.row_forests import turns_of
from eto_gym.trainers.settings.methods import PPOSettings
from eto_gym.trajectories import Trajectory


class Scores(NamedTuple):
    """What the models say of one episode before it is learnt from, on the CPU."""

    logps: torch.Tensor  # (trained tokens,)
    values: torch.Tensor  # (turns,), each from the state before the turn
    reference: torch.Tensor | None  # (trained tokens,); None where the divergence has no price


@dataclass(slots=True)
class Played:
    """One episode as the learner sees it."""

    rows: Sequence[TokenRow]  # one, or one for each prompt that a reply was sampled from
    rewards: torch.Tensor  # (turns,), less the price of the divergence
    scores: Scores
    advantages: torch.Tensor  # (turns,)
    returns: torch.Tensor  # (turns,), what the values should have been


def turn_rewards(trajectory: Trajectory, turns: int) -> list[float]:
    """Return the rewards of the first `turns` turns; what a cut takes away is earned by the last.

    An episode that was cut for its length still has its outcome, and the turns that are left led
    to it.
    """
    earned = [step.reward for step in trajectory.steps]
    kept = earned[:turns]
    kept[-1] += sum(earned[turns:])
    return kept


def joined(parts: Sequence[Scores]) -> Scores:
    """Return the scores of an episode from those of its rows."""
    references = [part.reference for part in parts if part.reference is not None]
    return Scores(
        torch.cat([part.logps for part in parts]),
        torch.cat([part.values for part in parts]),
        torch.cat(references) if references else None,
    )


def estimate(
    episodes: Sequence[Sequence[TokenRow]],
    rewards: Sequence[Sequence[float]],
    scores: Sequence[Scores],
    settings: PPOSettings,
    credit: Mapping[tuple[int, int], float] | None = None,
) -> tuple[list[Played], float]:
    """Estimate the advantages of a round's episodes.

    Args:
        episodes: The rows of each.
        rewards: The rewards of their turns.
        scores: What the models say of them.
        settings: The price of the divergence from the reference, the discounts, the scaling.
        credit: (episode, turn) -> what the simulator adds to the critic's estimate.

    Returns:
        The episodes, and the mean log-ratio to the reference per token.
    """
    moved, tokens = 0.0, 0
    played = []
    for number, (rows, earned, scored) in enumerate(zip(episodes, rewards, scores, strict=True)):
        reward = torch.tensor(earned, dtype=scored.logps.dtype)
        if scored.reference is not None:
            ratio = scored.logps - scored.reference
            moved, tokens = moved + float(ratio.sum()), tokens + len(ratio)
            reward = reward.index_add(0, turns_of(rows), -settings.kl_weight * ratio)
        advantages = advantages_of(
            reward, scored.values, gamma=settings.gamma, gae_lambda=settings.gae_lambda
        )
        returns = advantages + scored.values
        if credit:
            more = [credit.get((number, turn), 0.0) for turn in range(len(advantages))]
            advantages = advantages + settings.advantage_weight * torch.tensor(more)
        played.append(Played(rows, reward, scored, advantages, returns))
    if settings.normalize_advantages:
        everything = torch.cat([episode.advantages for episode in played])
        spread = everything.std(correction=0) + 1e-8
        for episode in played:
            episode.advantages = (episode.advantages - everything.mean()) / spread
    return played, moved / max(1, tokens)


def advantages_of(
    rewards: torch.Tensor, values: torch.Tensor, *, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Return the generalised advantage estimate of every turn of one episode, which ends there.

    Args:
        rewards: What every turn earned, (turns,).
        values: What the value head expected before it, (turns,).
        gamma: Discount per turn.
        gae_lambda: Weight of longer estimates: 0 trusts the values, 1 the rewards.
    """
    advantages = torch.zeros_like(rewards)
    ahead = torch.zeros(())
    for turn in reversed(range(len(rewards))):
        following = values[turn + 1] if turn + 1 < len(rewards) else 0.0
        surprise = rewards[turn] + gamma * following - values[turn]
        ahead = surprise + gamma * gae_lambda * ahead
        advantages[turn] = ahead
    return advantages


def policy_losses(
    logps: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PPO's clipped loss of every token, and whether its ratio was outside the clip.

    Args:
        logps: Log-probabilities of the N sampled tokens, (N,).
        old: The same when they were sampled, (N,).
        advantages: That of each token's turn, (N,).
        clip: How far a ratio may be from 1.
    """
    ratios = torch.exp(logps - old)
    clipped = ratios.clamp(1 - clip, 1 + clip)
    losses = -torch.minimum(ratios * advantages, clipped * advantages)
    return losses, (ratios - 1).abs() > clip


def value_losses(
    values: torch.Tensor, before: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return the squared error of every value.

    Args:
        values: What the value head says.
        before: What it said when the round began.
        returns: What it should have said.
        clip: A move from `before` by more than this does not make the error smaller; 0: it does.
    """
    errors = (values - returns) ** 2
    if not clip:
        return errors
    held = before + (values - before).clamp(-clip, clip)
    return torch.maximum(errors, (held - returns) ** 2)


def divergence(logps: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Estimate for every token how far the policy moved, in nats, by Schulman's estimator.

    It is never negative and of low variance (http://joschu.net/blog/kl-approx.html).
    """
    moved = logps - old
    return torch.exp(moved) - 1 - moved
