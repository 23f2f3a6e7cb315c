"""The built-in catalog as a catalog object."""

from __future__ import annotations

from functools import cache

from eto_gym.envs.webshop.builtin.generate import generate
from eto_gym.envs.webshop.catalog.catalog import Catalog

BUILTIN_SEED = 0
"""Seed of the catalog that environments use by default; its tasks are part of version v0."""


@cache
def builtin_catalog(seed: int = BUILTIN_SEED) -> Catalog:
    """Return the generated catalog; it knows the nouns of its titles by construction."""
    records = generate(seed=seed)
    return Catalog.from_records(
        records.products,
        attributes=records.attributes,
        human=records.human,
        seed=seed,
        tagger="given",
        name="builtin",
    )
