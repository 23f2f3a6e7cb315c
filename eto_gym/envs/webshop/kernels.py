"""The inner loop of the search engine: compiled by numba where it is installed, else NumPy.

Both forms do the same float32 and float64 operations, so their results are identical.
"""

from __future__ import annotations

import numpy as np

from eto_gym.envs.webshop.store import Array


def accumulate(scores: Array, products: Array, denominators: Array, weight: np.float32) -> Array:
    """Add one term's scores to its products and return those that had no score before."""
    before = scores[products]
    scores[products] = before + (weight - weight / denominators)
    return products[before == 0]
