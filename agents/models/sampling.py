"""Picks the next tokens from logits."""

from __future__ import annotations

import torch


class Sampler:
    """Picks next tokens: greedily, or by inverting the cumulative distribution at given numbers."""

    def __init__(self, *, temperature: float, top_p: float) -> None:
        """Create the sampler.

        Args:
            temperature: 0 is greedy.
            top_p: Keep the most probable tokens up to this mass; 1 keeps all.
        """
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, logits: torch.Tensor, uniforms: list[float]) -> torch.Tensor:
        """Return one token id per row of `logits`; greedy sampling ignores `uniforms`."""
        if self.temperature == 0:
            return most_probable(logits)
        probs = torch.softmax(logits.float() / self.temperature, -1)  # (B, vocabulary)
        draws = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
        order = None
        if self.top_p < 1:
            probs, order = probs.sort(dim=-1, descending=True, stable=True)
            before = probs.cumsum(-1, dtype=torch.float64) - probs
            probs = probs.masked_fill(before >= self.top_p, 0.0)
        # The first token at which the mass (B, vocabulary) is over the number drawn (B, 1).
        mass = probs.cumsum(-1, dtype=torch.float64)
        picks = torch.searchsorted(mass, draws * mass[:, -1:], right=True)
        picks = picks.clamp_(max=logits.shape[-1] - 1)
        return (picks if order is None else order.gather(-1, picks))[:, 0]


BLOCK = 1024
"""Logits that are looked through at a time. The library's search for the place of the largest one
takes several times as long on a CPU as that for its value."""


def most_probable(logits: torch.Tensor) -> torch.Tensor:
    """Return the first place of the largest of each row of logits (B, vocabulary), as (B,)."""
    whole = logits.shape[-1] // BLOCK * BLOCK
    if logits.device.type != "cpu" or whole < 2 * BLOCK:
        return logits.argmax(-1)
    blocks = logits[:, :whole].unflatten(-1, (-1, BLOCK))  # (B, blocks, BLOCK)
    largest = blocks.amax(-1)  # (B, blocks)
    block = largest.argmax(-1)  # (B,)
    rows = torch.arange(len(logits))
    place = block * BLOCK + blocks[rows, block].argmax(-1)
    if whole < logits.shape[-1]:
        rest = logits[:, whole:]
        later = rest.amax(-1) > largest[rows, block]
        place = torch.where(later, whole + rest.argmax(-1), place)
    return place


def no_numbers(logits: torch.Tensor) -> torch.Tensor:
    """Return where logits (..., vocabulary) are NaN; where the state before them is, all are."""
    return logits[..., 0].isnan()
