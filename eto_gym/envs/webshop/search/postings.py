"""Building of the inverted index: which products hold which term, and how strongly.

The index stores, per posting, the product and the denominator 1 + tf / (k1 (1 - b + b len / avg))
of BM25 as Lucene computes it: in float32, with the document's length rounded as Lucene stores it
in one byte. The weight of a term is the only thing left to a query.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from eto_gym.envs.webshop.search.analysis import term_of
from eto_gym.envs.webshop.search.tokenizer import tokenize
from eto_gym.envs.webshop.store import Array, Writer

K1 = 0.9
B = 0.4
"""BM25's parameters, Anserini's defaults."""

BLOCK = 1 << 22
"""Postings held in memory before they are spooled."""

_FREE = 24
"""Lengths below this are stored as they are, above it with four significant bits."""


def encode_length(length: int) -> int:
    """Return the byte that Lucene 8 stores for a document of this many terms."""
    if length < _FREE:
        return length
    rest = length - _FREE
    if rest < 8:
        return length
    shift = rest.bit_length() - 4
    return _FREE + ((rest >> shift & 7) | (shift + 1) << 3)


def decode_length(code: int) -> int:
    """Return the length that Lucene 8 reads from this byte."""
    if code < _FREE:
        return code
    code -= _FREE
    bits, shift = code & 7, (code >> 3) - 1
    return _FREE + (bits if shift < 0 else (bits | 8) << shift)


class PostingsBuilder:
    """Collects documents one by one, then writes the index."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._ids: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._lengths = bytearray()
        self._total = 0
        self._block_terms = array("i")
        self._block_counts = array("i")
        self._block_sizes = array("i")
        self._spool: BinaryIO = writer.scratch()
        self._blocks: list[tuple[int, int]] = []

    @property
    def documents(self) -> int:
        """How many documents hold a term: the document count of Lucene's statistics."""
        return len(self._lengths) - self._lengths.count(0)

    def add(self, text: str) -> None:
        """Add the next document."""
        known = self._tokens
        found = []
        for token in tokenize(text):
            term = known.get(token)
            if term is None:
                term = self._learn(token)
            if term >= 0:
                found.append(term)
        counts = Counter(found)
        self._block_terms.extend(counts)
        self._block_counts.extend(counts.values())
        self._block_sizes.append(len(counts))
        self._lengths.append(encode_length(len(found)))
        self._total += len(found)
        if len(self._block_terms) >= BLOCK:
            self._flush()

    def _learn(self, token: str) -> int:
        if len(self._tokens) > 4_000_000:
            self._tokens.clear()
        term = term_of(token)
        number = self._ids.setdefault(term, len(self._ids)) if term else -1
        self._tokens[token] = number
        return number

    def _flush(self) -> None:
        for part in (self._block_sizes, self._block_terms, self._block_counts):
            self._spool.write(part.tobytes())
        self._blocks.append((len(self._block_sizes), len(self._block_terms)))
        for part in (self._block_sizes, self._block_terms, self._block_counts):
            del part[:]

    def finish(self) -> int:
        """Write the index and return the number of its terms."""
        self._flush()
        self._tokens.clear()
        # The code points' order of str is the byte order of UTF-8.
        terms = sorted(self._ids)
        rank = np.empty(len(terms), np.int64)
        for position, term in enumerate(terms):
            rank[self._ids[term]] = position
        self._ids.clear()
        self._writer.texts("terms").extend(terms)
        frequency = np.zeros(len(terms), np.int64)
        for _, found, _ in self._spooled():
            frequency += np.bincount(rank[found], minlength=len(terms))
        starts = np.zeros(len(terms) + 1, np.int64)
        np.cumsum(frequency, out=starts[1:])
        self._writer.add("term_starts", starts)
        self._scatter(rank, starts)
        self._spool.close()
        return len(terms)

    def _spooled(self) -> Iterator[tuple[Array, Array, Array]]:
        """Yield per block the number of terms of each document, the terms and their counts."""
        self._spool.seek(0)
        for documents, postings in self._blocks:
            yield self._read(documents), self._read(postings), self._read(postings)

    def _read(self, size: int) -> Array:
        return np.frombuffer(self._spool.read(4 * size), np.int32)

    def _inverse_norms(self) -> Array:
        """Return Lucene's table 1 / (k1 (1 - b + b len / avg)) by stored length, in float32."""
        f32 = np.float32
        average = f32(self._total / max(1, self.documents))
        lengths = np.array([decode_length(code) for code in range(256)], f32)
        if average == 0:
            average = f32(1)
        return f32(1) / (f32(K1) * ((f32(1) - f32(B)) + f32(B) * lengths / average))

    def _scatter(self, rank: Array, starts: Array) -> None:
        inverse = self._inverse_norms()[np.frombuffer(self._lengths, np.uint8)]
        size = int(starts[-1])
        products = self._writer.empty("posting_products", size, np.int32)
        denominators = self._writer.empty("posting_denominators", size, np.float32)
        largest = np.ones(len(starts) - 1, np.float32)
        free = starts[:-1].copy()
        first = 0
        for sizes, found, counts in self._spooled():
            documents = np.repeat(np.arange(first, first + len(sizes), dtype=np.int32), sizes)
            first += len(sizes)
            terms = rank[found]
            order = np.argsort(terms, kind="stable")
            terms, documents = terms[order], documents[order]
            values = np.float32(1) + counts[order].astype(np.float32) * inverse[documents]
            begins = np.flatnonzero(np.r_[True, terms[1:] != terms[:-1]]) if len(terms) else terms
            runs = np.diff(np.r_[begins, len(terms)])
            target = np.repeat(free[terms[begins]] - begins, runs) + np.arange(len(terms))
            products[target] = documents
            denominators[target] = values
            free[terms[begins]] += runs
            np.maximum.at(largest, terms, values)
        self._writer.add("term_largest", largest)
