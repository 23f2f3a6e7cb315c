"""The inner loops of the search engine: compiled by numba where it is installed, else NumPy.

Both forms do the same float32 and float64 operations on the same numbers, so their results are
identical; numba needs one pass where NumPy needs several.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np

from eto_gym.envs.webshop.store import Array
from eto_gym.errors import require


class Kernels(NamedTuple):
    """The loops over one term's postings.

    Attributes:
        accumulate: Called with (scores, products, denominators, weight). Adds the term's scores to
            its products and returns those that had no score before.
        spread: Called with the same. Sets, not adds, the term's scores.
    """

    accumulate: Callable[[Array, Array, Array, np.float32], Array]
    spread: Callable[[Array, Array, Array, np.float32], object]


def numba_is_installed() -> bool:
    """Tell without importing it."""
    return importlib.util.find_spec("numba") is not None


def _accumulate(scores: Array, products: Array, denominators: Array, weight: np.float32) -> Array:
    before = scores[products]
    scores[products] = before + (weight - weight / denominators)
    return cast(Array, products[before == 0])


def _spread(scores: Array, products: Array, denominators: Array, weight: np.float32) -> None:
    scores[products] = weight - weight / denominators


NUMPY = Kernels(_accumulate, _spread)


@cache
def compiled_kernels() -> Kernels:
    """Return the numba form; the first call in an installation compiles for some seconds.

    Raises:
        MissingDependencyError: numba is not installed.
    """
    numba: Any = require("numba", feature="compiled WebShop search", extra="fast")

    def accumulate(
        scores: Array, products: Array, denominators: Array, weight: np.float32
    ) -> Array:
        new = np.empty_like(products)
        count = 0
        for i in range(len(products)):
            product = products[i]
            if scores[product] == 0:
                new[count] = product
                count += 1
            scores[product] += weight - weight / denominators[i]
        return new[:count]

    def spread(scores: Array, products: Array, denominators: Array, weight: np.float32) -> None:
        for i in range(len(products)):
            scores[products[i]] = weight - weight / denominators[i]

    # The numpy error model leaves out a check for division by zero; denominators exceed one.
    compile_ = numba.njit(cache=True, nogil=True, error_model="numpy")
    return Kernels(compile_(accumulate), compile_(spread))
