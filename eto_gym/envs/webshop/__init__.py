"""WebShop: a web shop of products, instructions to buy by, and the reward of a purchase."""

from eto_gym.envs.webshop.catalog.build import build_catalog
from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.catalog.goals import Goal, Goals
from eto_gym.envs.webshop.catalog.product import Product
from eto_gym.envs.webshop.env import WebShopEnv
from eto_gym.envs.webshop.expert import WebShopExpert
from eto_gym.envs.webshop.search.search import Search

__all__ = [
    "Catalog",
    "Goal",
    "Goals",
    "Product",
    "Search",
    "WebShopEnv",
    "WebShopExpert",
    "build_catalog",
]
