"""The space of text: any Unicode string."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.wrappers.utils import create_zero_array

# Sampled strings mix plain letters with characters that break naive text handling.
_SAMPLE_ALPHABET = "abcdefghijklmnopqrstuvwxyz 0123456789[]:.,'\n\té’–日本😀"


class UnicodeText(Space[str]):
    r"""All Python strings up to an optional length, measured in code points.

    `gymnasium.spaces.Text` needs a fixed character set and a maximal length, and so rejects real
    observations. This space rejects only what is not a string, or is too long.

    Example:
        >>> UnicodeText().contains("Größe: 6½ – 日本\n")
        True
        >>> UnicodeText(max_length=3).contains("four")
        False
    """

    def __init__(
        self, *, max_length: int | None = None, seed: int | np.random.Generator | None = None
    ) -> None:
        """Create the space.

        Args:
            max_length: Longest string allowed, in code points; None (the default) sets no limit,
                because neither engines nor language models do.
            seed: Seed of `sample`.

        Raises:
            ValueError: `max_length` is negative.
        """
        if max_length is not None and max_length < 0:
            raise ValueError(f"expected max_length >= 0 or None, got {max_length}")
        self.max_length = max_length
        super().__init__(shape=None, dtype=str, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a string of up to 40 characters; masks make no sense here and raise ValueError."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes no mask and no probability")
        longest = 40 if self.max_length is None else min(40, self.max_length)
        length = int(self.np_random.integers(0, longest + 1))
        picks = self.np_random.integers(0, len(_SAMPLE_ALPHABET), size=length)
        return "".join(_SAMPLE_ALPHABET[i] for i in picks)

    def contains(self, x: Any) -> bool:
        """Tell whether `x` is a string that is not too long."""
        return isinstance(x, str) and (self.max_length is None or len(x) <= self.max_length)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no fixed-size array form."""
        return False

    def __eq__(self, other: object) -> bool:
        """Spaces with the same limit are equal."""
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        """Agree with `__eq__`."""
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        """Show the limit only where there is one."""
        return (
            "UnicodeText()"
            if self.max_length is None
            else f"UnicodeText(max_length={self.max_length})"
        )


def _empty_text(space: Space[Any]) -> str:
    """Return what pads stacked and delayed observations: the empty string."""
    return ""


create_zero_array.register(UnicodeText, _empty_text)
