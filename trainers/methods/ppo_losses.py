"""PPO's losses: value head, generalised advantages, clipped policy and value losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eto_gym.trainers.data.batching import IGNORED


class ValueHead(torch.nn.Module):
    """Predicts what is still to be earned from the state before a turn; starts at zero."""

    def __init__(self, width: int) -> None:
        """Prepare for hidden states of `width` numbers."""
        super().__init__()
        self.linear = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return one value per turn in float32, row by row.

        Args:
            hidden: The last hidden states of a batch, (B, T, width).
            labels: Its labels, (B, T); a run of them is a turn, and none stands first in a row.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            states = hidden[:, :-1][turn_starts(labels)].float()  # (turns of the batch, width)
            values: torch.Tensor = self.linear(states).squeeze(-1)
        return values


def turn_starts(labels: torch.Tensor) -> torch.Tensor:
    """Mark the places from which the first token of a turn is predicted: (B, T) -> (B, T - 1)."""
    trained = labels.ne(IGNORED)
    return trained[:, 1:] & ~trained[:, :-1]


def turn_numbers(mask: Sequence[bool]) -> torch.Tensor:
    """Return the number of its turn for every trained token: a run of marks is a turn."""
    starts = [kept and not before for before, kept in zip([False, *mask], mask, strict=False)]
    numbers = torch.tensor(starts).cumsum(0) - 1
    return numbers[torch.tensor(mask)]


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
