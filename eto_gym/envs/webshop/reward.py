"""The reward of a purchase, part by part, as the original WebShop scores it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, utils

from eto_gym.envs.webshop.catalog.goals import Goal
from eto_gym.envs.webshop.catalog.product import Product

MATCH_SCORE = 85
"""Two phrases match when their token-set ratio (0..100) is above this."""

_COLOR_WORDS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown "
    "burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee "
    "cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia "
    "gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender "
    "lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor "
    "mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red "
    "rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower "
    "tan taupe teal tiger turquoise violet walnut wheat white wine yellow"
)
COLORS = tuple(_COLOR_WORDS.split())
"""Colour words in the order in which the original tries them; the first contained one wins, so
"dark red" becomes "dark" and "blush pink" becomes "blush"."""

_LATIN_1_REST = dict.fromkeys(range(128, 256))


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one purchase and the parts that it is made of.

    Attributes:
        total: r_type * (matched attributes + matched options + price ok) / (all of them), in 0..1.
        r_type: How well the kind of product fits: 1, 0.5, 0.1 or 0.
        query_match: Whether both products were collected with the same query.
        category_match: Whether the category paths share at least two entries.
        title_score: Share of the goal's nouns that the bought product's name contains.
        r_att: Share of the wanted attributes that the bought product has.
        w_att: Weight of the attributes in the total.
        r_option: Share of the wanted options that were chosen; None where none was wanted.
        w_option: Weight of the options; None where none was wanted.
        r_price: Whether the price is within the limit; None where the limit is not positive.
        w_price: Weight of the price; None where the limit is not positive.
    """

    total: float
    r_type: float
    query_match: bool
    category_match: bool
    title_score: float
    r_att: float
    w_att: float
    r_option: float | None
    w_option: float | None
    r_price: bool | None
    w_price: float | None

    def parts(self) -> dict[str, float | bool]:
        """Return the parts under the original's names; those that do not apply are left out."""
        names = ["r_type", "r_att", "w_att", "query_match", "category_match", "title_score"]
        names += ["r_option", "w_option", "r_price", "w_price"]
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


def score_purchase(product: Product, chosen: Mapping[str, str], goal: Goal) -> Reward:
    """Score buying `product` with the `chosen` options (option name -> value) for `goal`."""
    r_type, query_match, category_match, title_score = _type_reward(product, goal)
    attributes = _matched_attributes(product, goal.attributes)
    wanted = list(goal.options.items()) if isinstance(goal.options, Mapping) else goal.options
    options = _matched_options(chosen.values(), wanted)
    price_ok = product.price <= goal.price_upper if goal.price_upper > 0 else None
    count = len(goal.attributes) + len(wanted) + 1
    total = (attributes + options + bool(price_ok)) / count * r_type
    return Reward(
        total=total,
        r_type=r_type,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
        r_att=attributes / len(goal.attributes),
        w_att=len(goal.attributes) / count,
        r_option=options / len(wanted) if wanted else None,
        w_option=len(wanted) / count if wanted else None,
        r_price=price_ok,
        w_price=None if price_ok is None else 1 / count,
    )


def token_set_ratio(first: str, second: str) -> int:
    """Compare two phrases as thefuzz 0.22 does: 0..100, blind to order, case and repeated words.

    thefuzz drops the characters U+0080..U+00FF before it compares ("café" becomes "caf"), and
    rounds; both matter near the threshold.
    """
    return round(fuzz.token_set_ratio(_processed(first), _processed(second)))


def option_matches(value: str, option: str | tuple[str, str]) -> bool:
    """Tell whether choosing a value meets a wanted option, as the reward compares them."""
    return token_set_ratio(normalize_color(value), _wanted_text(option)) > MATCH_SCORE


def normalize_color(text: str) -> str:
    """Reduce a colour to the first known colour word in it; other text stays as it is."""
    return next((color for color in COLORS if color in text), text)


def _processed(text: str) -> str:
    return utils.default_process(text.translate(_LATIN_1_REST))


def _type_reward(product: Product, goal: Goal) -> tuple[float, bool, bool, float]:
    query_match = product.query == goal.query
    shared = _categories(product.product_category) & _categories(goal.product_category)
    category_match = len(shared) >= 2
    shared_nouns = set(product.nouns) & set(goal.nouns)
    title_score = len(shared_nouns) / len(goal.nouns) if goal.nouns else 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return r_type, query_match, category_match, title_score


def _categories(path: str) -> set[str]:
    return {part.strip() for part in path.split("›")}


def _matched_attributes(product: Product, wanted: Iterable[str]) -> int:
    texts = (product.title.lower(), " ".join(product.bullets).lower(), product.description.lower())
    return sum(
        any(token_set_ratio(own, attribute) > MATCH_SCORE for own in product.attributes)
        or any(attribute in text for text in texts)
        for attribute in wanted
    )


def _matched_options(
    chosen: Iterable[str], wanted: Sequence[str] | Sequence[tuple[str, str]]
) -> int:
    have = [normalize_color(value) for value in chosen]
    return sum(
        any(token_set_ratio(value, option) > MATCH_SCORE for value in have)
        for option in map(_wanted_text, wanted)
    )


def _wanted_text(option: str | tuple[str, str]) -> str:
    """Word a wanted option as the original compares it.

    The option of a synthetic goal is a (name, value) pair, and the original compares the printed
    pair; its search for a colour word finds one only if the name or the value is that very word.
    """
    if isinstance(option, str):
        return normalize_color(option)
    return next((color for color in COLORS if color in option), str(option))
