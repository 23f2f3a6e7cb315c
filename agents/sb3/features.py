"""Fixed-size features of text: hashed words, or whatever embedder a user brings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from eto_gym.errors import EtoGymError

_WORD = re.compile(r"\w+")
_CACHED_TEXTS, _CACHED_LENGTH = 16384, 256


class TextFeatures(Protocol):
    """Turns texts into rows of numbers.

    Attributes:
        dim: Numbers per text.
    """

    dim: int

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return an array of shape (len(texts), dim); a text's row depends on that text alone."""
        ...

    def space(self, rows: int = 1) -> Box:
        """Return the space of `rows` texts, laid end to end."""
        ...


class HashedText:
    """Counts the words and word sequences of a text in hashed buckets, with signs.

    The hash is BLAKE2 and not Python's, so the features are the same in every process. A word's
    sign makes collisions cancel on average instead of adding up.

    Example:
        >>> hashed = HashedText(dim=64)
        >>> mug, same, lamp = hashed(["take mug 1", "Take MUG 1!", "use lamp 2"])
        >>> bool((mug == same).all()), bool((mug == lamp).all())
        (True, False)
    """

    def __init__(self, *, dim: int = 128, ngrams: int = 2, max_words: int = 512) -> None:
        """Create the vectoriser.

        Args:
            dim: Buckets. 128 keeps an observation with 64 candidates at 8 KB, so that a replay
                buffer of 20,000 steps takes 0.35 GB; long observations collide less with more.
            ngrams: Longest word sequence that is counted. 2 tells "drawer 1" from "shelf 1".
            max_words: Words read of a text; the rest is left out, which bounds the time that one
                very long text can take.

        Raises:
            ValueError: A size is below 1.
        """
        if dim < 1 or ngrams < 1 or max_words < 1:
            raise ValueError(
                "expected dim, ngrams and max_words of at least 1, got "
                f"{dim}, {ngrams}, {max_words}"
            )
        self.dim = dim
        self._ngrams = ngrams
        self._max_words = max_words
        self._cache: dict[str, NDArray[np.int8]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Return the signed counts, clipped to -127..127."""
        rows = np.zeros((len(texts), self.dim), np.int8)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self._counts(text)
        return rows

    def space(self, rows: int = 1) -> Box:
        """Return the space of `rows` texts, laid end to end."""
        return Box(-127, 127, (rows * self.dim,), np.int8)

    def _counts(self, text: str) -> NDArray[np.int8]:
        """Return a text's row; those of short texts are kept, because actions come again."""
        row = self._cache.get(text)
        if row is None:
            row = self._count(text).astype(np.int8)
            if len(text) <= _CACHED_LENGTH:
                if len(self._cache) >= _CACHED_TEXTS:
                    self._cache.clear()
                self._cache[text] = row
        return row

    def _count(self, text: str) -> NDArray[np.float64]:
        words = _WORD.findall(text.lower())[: self._max_words]
        hashes = [
            _hash(" ".join(words[start : start + length]))
            for length in range(1, self._ngrams + 1)
            for start in range(len(words) - length + 1)
        ]
        buckets = np.fromiter((h >> 1 for h in hashes), np.int64, len(hashes)) % self.dim
        signs = np.fromiter(((h & 1) * 2 - 1 for h in hashes), np.int64, len(hashes))
        return np.clip(np.bincount(buckets, signs, self.dim), -127, 127)


@lru_cache(maxsize=1 << 16)
def _hash(gram: str) -> int:
    return int.from_bytes(blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=7).digest())


class EmbeddedText:
    """Features from a user's embedder, with a bounded cache."""

    def __init__(self, embedder: Callable[[Sequence[str]], Any], *, cache: int = 16384) -> None:
        """Ask the embedder for one text, to learn its dimension.

        Args:
            embedder: Maps a list of n texts to an array of shape (n, dim); a text's row must not
                depend on the others.
            cache: Texts whose rows are kept; candidate actions come again and again.

        Raises:
            EtoGymError: The embedder answers something else.
        """
        self._embedder = embedder
        self._limit = cache
        self._cache: dict[str, NDArray[np.float32]] = {}
        probe = np.asarray(embedder([""]))
        if probe.ndim != 2 or len(probe) != 1 or not probe.size:
            raise EtoGymError(
                f"expected an array of shape (1, dim) for one text, got {probe.shape}"
            )
        self.dim = int(probe.shape[1])

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the rows; texts that are not cached go to the embedder in one call.

        Raises:
            EtoGymError: The embedder returns no finite numbers of the shape that is expected.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        fresh: dict[str, NDArray[np.float32]] = {}
        if missing:
            rows = np.asarray(self._embedder(missing), np.float32)
            if rows.shape != (len(missing), self.dim) or not np.isfinite(rows).all():
                raise EtoGymError(
                    f"expected finite numbers of shape {(len(missing), self.dim)} from the "
                    f"embedder, got shape {rows.shape}"
                )
            fresh = dict(zip(missing, rows, strict=True))
        result = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(result, texts, strict=True):
            row[:] = fresh[text] if text in fresh else self._cache[text]
        if len(self._cache) + len(fresh) > self._limit:
            self._cache.clear()
        self._cache.update(fresh)
        return result

    def space(self, rows: int = 1) -> Box:
        """Return the space of `rows` texts, laid end to end."""
        return Box(-np.inf, np.inf, (rows * self.dim,), np.float32)
