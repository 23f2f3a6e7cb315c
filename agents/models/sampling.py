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
            probs, order = _ordered(probs, self.top_p)
            before = probs.cumsum(-1, dtype=torch.float64) - probs
            probs = probs.masked_fill(before >= self.top_p, 0.0)
        # The first token at which the mass (B, vocabulary) is over the number drawn (B, 1).
        mass = probs.cumsum(-1, dtype=torch.float64)
        picks = torch.searchsorted(mass, draws * mass[:, -1:], right=True)
        picks = picks.clamp_(max=probs.shape[-1] - 1)
        return (picks if order is None else order.gather(-1, picks))[:, 0]


def _ordered(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that may be among the most probable, from the most probable on.

    All others together hold less mass than is left out, and to sort a whole vocabulary takes as
    long as a pass of a small model.

    Args:
        probs: (B, vocabulary).
        top_p: Mass that is kept.

    Returns:
        Their probabilities (B, n), with zeros behind a row that has fewer; and which tokens they
        are. Of equal ones that which comes first in the vocabulary is first.
    """
    left_out = 1 - top_p
    if left_out < 1e-4:  # within the rounding of their sum: all may be among them
        return probs.sort(dim=-1, descending=True, stable=True)
    least = left_out / probs.shape[-1] / 2  # half: mass is summed in another order later
    rows, tokens = (probs >= least).nonzero(as_tuple=True)  # by rows, then by tokens
    counts = torch.bincount(rows, minlength=len(probs))  # (B,)
    begins = counts.cumsum(0) - counts
    places = torch.arange(len(rows), device=probs.device) - begins[rows]
    width = int(counts.max())
    found = probs.new_zeros(len(probs), width)
    found[rows, places] = probs[rows, tokens]
    named = tokens.new_zeros(len(probs), width)
    named[rows, places] = tokens
    found, order = found.sort(dim=-1, descending=True, stable=True)
    return found, named.gather(-1, order)


BLOCK = 1024
"""Logits that are looked through at a time. The library's search for the place of the largest one
takes several times as long on a CPU as that for its value."""


def most_probable(logits: torch.Tensor) -> torch.Tensor:
    """Return the first place of the largest of each row of logits (B, vocabulary), as (B,)."""
    whole = logits.shape[-1] // BLOCK * BLOCK
    if logits.device.type != "cpu" or whole < 2 * BLOCK:
        return logits.argmax(-1)
    blocks = logits[:, :whole].view(len(logits), -1, BLOCK)  # (B, blocks, BLOCK)
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
