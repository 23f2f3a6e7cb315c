"""A small catalog with one of everything that is odd."""

from __future__ import annotations

from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.pages import Pages
from eto_gym.envs.webshop.session import Session
from tests.envs.webshop.support import instruction, options, record

ODD_VALUES = ["red", "features", "next >", "search", "", "a [b]", "back to search", "two\nlines"]


def small_catalog() -> Catalog:
    """Twelve mugs, one with odd option values, one with odd texts, one with a lower-case id."""
    mugs = [record(f"B00000000{i}", f"Plain Mug {i}", pricing=f"${4 + i}.00") for i in range(1, 10)]
    mugs += [
        record(
            "B000000ODD",
            "Odd Mug",
            customization_options=options(
                color=ODD_VALUES, size=["small", "large"], pattern=["large", "plaid"]
            ),
            full_description='He said "buy" & <b>left</b>',
            small_description=["", " \n ", "\u00a0", "Dish washer safe\nand light"],
        ),
        record("b0lower123", "Tiny Lower Mug", query="cups"),
        record("B0SCRIPT00", "<script>alert(1)</script> Mug", category="</p>"),
    ]
    return Catalog.from_records(
        mugs,
        attributes={
            "B000000ODD": {"attributes": ["dish washer safe", "hand made"]},
            "B000000001": {"attributes": ["hand made"]},
        },
        human={
            "B000000ODD": [
                instruction("B000000ODD", "find an odd mug", ["hand made"], ["red", "large"])
            ],
            "B000000001": [instruction("B000000001", "find a mug.", ["hand made"], [])],
        },
    )


def visit(catalog: Catalog, asin: str = "B000000ODD", *, show_attributes: bool = False) -> Session:
    """A visit whose goal is the first one with this product."""
    goal = next(goal for goal in catalog.goals("human") if goal.asin == asin)
    return Session(Pages(catalog, show_attributes=show_attributes), goal)


def play(session: Session, *actions: str) -> Session:
    """Take actions and return the session."""
    for action in actions:
        session.act(action)
    return session
