"""Generates the built-in catalog's records, in the form of the official files."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from typing import Any

from eto_gym.envs.webshop.builtin import vocabulary as words
from eto_gym.envs.webshop.builtin.vocabulary import Kind

PER_KIND = 40
"""Products of each kind: enough that a search for the kind alone fills several result pages."""

TRAITS_PER_PRODUCT = 4
SYNTHETIC_SHARE = 0.25
"""Share of the products that synthetic goals ask for."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Records:
    """What the official files hold: products, attributes by asin, and human goals by asin."""

    products: list[Record]
    attributes: dict[str, Record]
    human: dict[str, list[Record]]


def generate(*, seed: int = 0, per_kind: int = PER_KIND) -> Records:
    """Generate a catalog; the same seed and size give the same records on every machine.

    Every product gets four attributes of its kind's pool, each told once on its pages: some in the
    title, some in the feature lines or the description. Search reads titles, descriptions, first
    feature lines and options, so part of what a goal asks for is found only by reading. Options
    differ between products of a kind, so a wanted value must be looked for, too.

    Args:
        seed: Seed of everything drawn here.
        per_kind: Products of each of the 54 kinds.
    """
    rng = random.Random(seed)
    brands = [start + end for start in words.BRAND_STARTS for end in words.BRAND_ENDS]
    rng.shuffle(brands)
    records = Records([], {}, {})
    taken: set[str] = set()
    for department, (path, kinds) in words.DEPARTMENTS.items():
        for kind in kinds:
            for _ in range(per_kind):
                asin = _asin(rng, taken)
                _add_product(rng, records, asin, department, path, kind, rng.choice(brands[:90]))
    rng.shuffle(records.products)
    return records


def _asin(rng: random.Random, taken: set[str]) -> str:
    while True:
        asin = "B0" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=8))
        if asin not in taken:
            taken.add(asin)
            return asin


def _add_product(
    rng: random.Random,
    records: Records,
    asin: str,
    department: str,
    path: str,
    kind: Kind,
    brand: str,
) -> None:
    traits = rng.sample(words.TRAITS[kind.traits], TRAITS_PER_PRODUCT)
    shown = rng.choice((1, 1, 2))  # attributes that the title tells
    title, nouns = _title(rng, brand, kind, traits[:shown])
    lines = [_line(rng, trait, kind) for trait in traits[shown:]]
    opener = rng.choice(words.OPENERS).format(this=_this(kind), kind=kind.name, brand=brand)
    description = f"{opener} {lines.pop()}" if rng.random() < 0.4 else opener
    bullets = [*lines[1:], *rng.sample(words.FILLERS, rng.choice((1, 2)))]
    rng.shuffle(bullets)
    bullets[:0] = lines[:1]
    options = {
        words.OPTION_NAMES[pool]: _values(rng, words.OPTION_VALUES[pool]) for pool in kind.options
    }
    records.products.append(
        {
            "asin": asin,
            "name": title,
            "full_description": description,
            "small_description": bullets,
            "pricing": _price(rng, kind),
            "product_category": f"{path} › {kind.section} › {kind.query.title()}",
            "category": department,
            "query": kind.query,
            "images": [],
            "customization_options": {
                name: [{"value": value} for value in values] for name, values in options.items()
            },
            "nouns": nouns,
        }
    )
    wanted = rng.sample(traits, rng.choice((1, 2, 2)))
    names = [name for name, _ in wanted]
    records.attributes[asin] = {"attributes": [name for name, _ in traits]}
    # Every combination of options makes a synthetic goal, so a part of the products is enough.
    if rng.random() < SYNTHETIC_SHARE:
        records.attributes[asin] |= {
            "instruction": f"Find me {', '.join(names)} {kind.query}",
            "instruction_attributes": names,
        }
    chosen = {name: rng.choice(v) for name, v in options.items() if rng.random() < 0.85}
    records.human[asin] = [
        {
            "asin": asin,
            "instruction": instruction(rng, kind, wanted, chosen),
            "instruction_attributes": names,
            "instruction_options": list(chosen.values()),
        }
    ]


def _title(
    rng: random.Random, brand: str, kind: Kind, traits: list[tuple[str, str]]
) -> tuple[str, list[str]]:
    """Return a title and its nouns: the brand, the kind's words, and those after with/for."""
    before = [name.title() for name, place in traits if place == "adj"]
    after = [(place, name) for name, place in traits if place != "adj"]
    title = " ".join([brand, *before, kind.name.title()])
    nouns = [brand.lower()]
    nouns += [word for word in kind.name.split() if word not in words.KIND_ADJECTIVES]
    for place, name in after:
        title += f" {place} {name.title()}"
        nouns += [word for word in name.split() if word not in words.TRAIT_ADJECTIVES]
    if rng.random() < 0.25:
        number = f"{rng.choice(string.ascii_uppercase)}{rng.randint(10, 99)}"
        title += f", {number}"
    return title, nouns


def _line(rng: random.Random, trait: tuple[str, str], kind: Kind) -> str:
    name, place = trait
    this = _this(kind)
    return rng.choice(words.BODY_LINES[place]).format(trait=name, this=this, verb=_verb(kind))


def _this(kind: Kind) -> str:
    return f"{'This' if _verb(kind) == 'is' else 'These'} {kind.name}"


def _verb(kind: Kind) -> str:
    """Return "are" for a plural ("sandals"), "is" for one thing and for a mass noun ("cocoa")."""
    return "are" if kind.countless and kind.name.endswith("s") else "is"


def _values(rng: random.Random, pool: tuple[str, ...]) -> list[str]:
    """Draw half of a pool or a little more, six values at most, in the pool's order."""
    count = min(rng.randint(len(pool) // 2, len(pool) // 2 + 2), 6)
    return [pool[i] for i in sorted(rng.sample(range(len(pool)), count))]


def _price(rng: random.Random, kind: Kind) -> str:
    low = round(kind.cheapest * rng.uniform(1, 4)) - rng.choice((0.01, 0.05, 0.5))
    if rng.random() < 0.12:
        return f"${low:.2f} - ${low * rng.uniform(1.1, 1.5):.2f}"
    return f"${low:.2f}"


# --- instructions ---------------------------------------------------------------------------------

_OPENINGS = (
    "i'm looking for {a}",
    "i am looking for {a}",
    "i need {a}",
    "find me {a}",
    "i want to buy {a}",
    "can you get me {a}",
    "show me {a}",
    "i would like {a}",
    "please help me find {a}",
    "i want {a}",
)
_OPTIONS = {
    "color": ("in {v}", "in the color {v}", "and i want the {v} one", "the color should be {v}"),
    "scent": ("with the {v} scent", "that smells of {v}", "in the scent {v}"),
    "flavor name": ("in {v} flavor", "the flavor should be {v}", "{v} flavored"),
    "size": ("in size {v}", "size {v}", "and the size should be {v}", "in a size of {v}"),
    "length": ("that is {v} long", "with a length of {v}"),
    "capacity": ("with {v}", "with a capacity of {v}"),
    "item package quantity": ("sold as {v}", "as a {v}", "i need it as {v}"),
    "style": ("in the {v} style", "the {v} version", "style {v}"),
}


def instruction(
    rng: random.Random, kind: Kind, wanted: list[tuple[str, str]], chosen: dict[str, str]
) -> str:
    """Word a goal as a shopper might: lower case, loosely punctuated, in varying order."""
    adjectives = [name for name, place in wanted if place == "adj"]
    trailing = [f"{place} {name}" for name, place in wanted if place != "adj"]
    moved = [adjectives.pop()] if adjectives and rng.random() < 0.4 else []
    phrase = " ".join([*adjectives, kind.name])
    article = "some " if kind.countless else "an " if phrase[0] in "aeiou" else "a "
    text = rng.choice(_OPENINGS).format(a=article + phrase)
    parts = [f"that {_verb(kind)} {name}" for name in moved] + trailing
    rng.shuffle(parts)
    if parts:
        text += " " + " and ".join(parts)
    options = [rng.choice(_OPTIONS[name]).format(v=value) for name, value in chosen.items()]
    rng.shuffle(options)
    return text + "".join(f", {option}" for option in options)
