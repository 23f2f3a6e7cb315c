"""BM25 search whose top products, order included, are exactly Lucene's.

A query is a bag of words joined by OR; a repeated term counts as often as it occurs. Lucene adds
up float32 term scores in float64 and rounds the sum to float32 once. Such sums are exact in
float64, so the order of addition does not matter and common terms can be left to the few products
that can still reach the top (the MaxScore idea of Turtle and Flood, 1995).
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from functools import cached_property
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eto_gym.envs.webshop.search import kernels
from eto_gym.envs.webshop.search.analysis import analyze
from eto_gym.envs.webshop.store import Array, Store, buffer_of

COMPILE_FROM = 20_000
"""Products from which on numba is worth its import (about a second and 100 MB)."""

SMALL = 5_000
"""Products up to which scoring all of them costs less than finding out which to leave out."""

MAX_QUERY = 1 << 14
"""Characters of a query that count, far more than anybody types. Lucene itself refuses queries of
more than 1,024 distinct words, which ends an episode of the original with an error."""

_KNOWN_TERMS = 4096
"""Looked-up terms that are kept."""

_MARGIN = 1 + 1e-5
"""Bounds are widened by this much, because scores are rounded to float32 in the end."""

_LOOKUP_COST = 12
"""How many times longer it takes to look a product up in a sorted list than to pass over one."""


class _Term(NamedTuple):
    """One term of a query.

    Attributes:
        weight: Its idf, times its count in the query.
        bound: The most that it can add to a score.
        largest: Largest denominator among its postings.
        products: Products that hold it, in catalog order.
        denominators: Denominator of each of these.
    """

    weight: np.float32
    bound: float
    largest: np.float32
    products: Array
    denominators: Array


_bound = attrgetter("bound")


class Search:
    """The search engine of one catalog."""

    def __init__(self, source: Store | str | Path, *, compiled: bool | None = None) -> None:
        """Open the engine.

        Args:
            source: An index folder, or its opened store.
            compiled: Use numba's kernels. None, the default, uses them where numba is installed and
                the catalog is so large that they gain more than importing numba costs. The results
                are the same either way.

        Raises:
            DataError: The folder is no complete index of this version.
            MissingDependencyError: `compiled` is true and numba is not installed.
        """
        store = source if isinstance(source, Store) else Store.open(Path(source))
        self._asins = store.texts("asins")
        self._terms = store.texts("terms")
        # The kernels check no bounds: no product may lie beyond the catalog.
        count, terms = len(self._asins), len(self._terms)
        self._products = store.indices("posting_products", below=count)
        size = len(self._products)
        self._denominators = store.floats("posting_denominators", size=size)
        self._starts = buffer_of(store.starts("term_starts", size=terms, end=size))
        self._largest = store.floats("term_largest", size=terms)
        self._asin_ranks = store.indices("asin_ranks", below=count, size=count)
        self._documents = store.count("searchable_products")
        if compiled is None:
            compiled = len(self._asins) >= COMPILE_FROM and kernels.numba_is_installed()
        self._compiled = compiled
        self._lock = threading.Lock()
        self._known: dict[str, _Term] = {}
        # All zero between two queries; sparing a query the clearing of a whole array.
        self._scores = np.zeros(len(self._asins), np.float64)

    @cached_property
    def _kernels(self) -> kernels.Kernels:
        return kernels.compiled_kernels() if self._compiled else kernels.NUMPY

    def top(self, query: str, k: int = 50) -> list[str]:
        """Return the asins of the `k` best products, best first."""
        return [self._asins[product] for product in self.top_products(query, k)]

    def top_products(self, query: str, k: int = 50) -> list[int]:
        """Return the indices of the `k` best products, best first.

        Products with equal scores are ordered by the bytes of their asins. Products that share no
        term with the query are never returned.
        """
        return self.top_scored(query, k)[0].tolist()  # type: ignore[no-any-return]

    def top_scored(self, query: str, k: int = 50) -> tuple[Array, Array]:
        """Return the indices of the `k` best products and their float32 scores, best first.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"expected k >= 1, got {k}")
        terms = self._query_terms(query)
        if not terms:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if len(self._asins) < SMALL:
            products, sums = self._all_products(terms)
        else:
            with self._lock:
                products, sums = self._candidates(terms, k)
        scores = sums.astype(np.float32)
        if len(scores) > k:
            worst = np.partition(scores, len(scores) - k)[len(scores) - k]
            keep = np.flatnonzero(scores >= worst)
            products, scores = products[keep], scores[keep]
        order = np.lexsort((self._asin_ranks[products], -scores))[:k]
        return products[order], scores[order]

    def _query_terms(self, query: str) -> list[_Term]:
        """Look the query's terms up; the ones that can add most come first."""
        found = []
        for text, count in Counter(analyze(query[:MAX_QUERY])).items():
            term = self._known.get(text)
            if term is None:
                if len(self._known) >= _KNOWN_TERMS:
                    self._known.clear()
                term = self._known[text] = self._look_up(text)
            if count > 1:
                # The weight is the float32 product of count and idf, the bound grows alike.
                weight = np.float32(count) * term.weight
                term = term._replace(weight=weight, bound=float(weight - weight / term.largest))
            if len(term.products):
                found.append(term)
        found.sort(key=_bound, reverse=True)
        return found

    def _look_up(self, text: str) -> _Term:
        at = self._terms.find(text)
        if at is None:
            return _Term(np.float32(0), 0.0, np.float32(1), self._products[:0], self._products[:0])
        first, last = self._starts[at], self._starts[at + 1]
        frequency = last - first
        idf = np.float32(math.log(1 + (self._documents - frequency + 0.5) / (frequency + 0.5)))
        largest = self._largest[at]
        products, denominators = self._products[first:last], self._denominators[first:last]
        return _Term(idf, float(idf - idf / largest), largest, products, denominators)

    def _all_products(self, terms: list[_Term]) -> tuple[Array, Array]:
        """Return all products that share a term with the query, with their scores."""
        products = np.concatenate([term.products for term in terms])
        denominators = np.concatenate([term.denominators for term in terms])
        weights = np.repeat([t.weight for t in terms], [len(t.products) for t in terms])
        sums = np.bincount(products, weights - weights / denominators)
        found = np.flatnonzero(sums)
        return found, sums[found]

    def _candidates(self, terms: list[_Term], k: int) -> tuple[Array, Array]:
        """Return products, the best `k` and their equals among them, with their full scores."""
        scores, loops = self._scores, self._kernels
        seen: list[Array] = []
        count, reached, check = 0, 0.0, 0
        lefts = _sums_after(terms)
        try:
            for at, (term, left) in enumerate(zip(terms, lefts, strict=True)):
                new = loops.accumulate(scores, term.products, term.denominators, term.weight)
                seen.append(new)
                count += len(new)
                # The threshold cannot exceed what the terms so far can add.
                reached += term.bound
                if count >= k and 0 < left < reached and at >= check:
                    # A check costs as much as the products seen; of many terms, not after each.
                    check = at + 1 + at // 16
                    # A product not seen so far can reach `left` at most.
                    products = np.concatenate(seen)
                    sums = scores[products]
                    if left * _MARGIN < np.partition(sums, count - k)[count - k]:
                        break
            else:
                products = np.concatenate(seen)
                return products, scores[products]
        finally:
            for part in seen:
                scores[part] = 0
        return self._complete(products, sums, terms[at + 1 :], k)

    def _complete(
        self, products: Array, sums: Array, terms: list[_Term], k: int
    ) -> tuple[Array, Array]:
        """Add the contributions of further terms, dropping what cannot reach the top any more."""
        scores, loops = self._scores, self._kernels
        for term, after in zip(terms, _sums_after(terms), strict=True):
            left = term.bound + after
            threshold = np.partition(sums, len(sums) - k)[len(sums) - k]
            keep = np.flatnonzero(sums >= threshold / _MARGIN - left * _MARGIN)
            products, sums = products[keep], sums[keep]
            if len(products) * _LOOKUP_COST < len(term.products):
                place = np.searchsorted(term.products, products)
                place[place == len(term.products)] = 0
                hits = np.flatnonzero(term.products[place] == products)
                sums[hits] += term.weight - term.weight / term.denominators[place[hits]]
            else:
                loops.spread(scores, term.products, term.denominators, term.weight)
                sums += scores[products]
                scores[term.products] = 0
        return products, sums


def _sums_after(terms: list[_Term]) -> list[float]:
    """Return for each term the most that the terms after it can add to a score."""
    return [*accumulate((term.bound for term in reversed(terms[1:])), initial=0.0)][::-1]
