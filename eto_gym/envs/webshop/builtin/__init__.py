"""The built-in catalog: made from nothing, for playing and testing without a download."""

from eto_gym.envs.webshop.builtin.catalog import BUILTIN_SEED, builtin_catalog
from eto_gym.envs.webshop.builtin.generate import Records, generate

__all__ = ["BUILTIN_SEED", "Records", "builtin_catalog", "generate"]
