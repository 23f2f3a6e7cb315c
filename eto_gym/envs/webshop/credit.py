"""What a visit still needs to a purchase that earns everything, and what tells visits apart.

The counts know the goal's product, which an agent does not: they are for training, never shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from eto_gym.envs.webshop import pages as pg
from eto_gym.envs.webshop.catalog.goals import Goal
from eto_gym.envs.webshop.pages import Pages
from eto_gym.envs.webshop.reward import option_matches, score_purchase
from eto_gym.envs.webshop.session import Session


def state_parts(session: Session, *, address: bool) -> list[object]:
    """Return what the future of a visit depends on.

    Chance is left out: the random products that `search[<r>]` will show, and what was drawn before.

    Args:
        session: The visit.
        address: Whether observations show the page's address, or what was opened; then the words of
            the search, the order of choices and the opened products count too.
    """
    options = list(session.options.items())
    found = session.page not in ("index", "done")
    bought = session.get_state()["bought"]
    return [
        session.page,
        session.number if found else 0,
        list(session.found()) if found else [],
        None if session.product is None else session.product.asin,
        session.sub_page,
        options if address else sorted(options),
        bought if bought is None else [bought["asin"], sorted(bought["options"].items())],
        [session.keywords, sorted(session.seen)] if address else [],
    ]


class Shortest:
    """Counts the steps of the best player known of one goal.

    That player knows which products on the page, and the goal's own, can earn a reward of 1. It
    searches for the goal's product by its title, opens a product, chooses what is still missing,
    and buys. What other products of the catalog could earn is not looked at.
    """

    def __init__(self, pages: Pages, goal: Goal) -> None:
        """Prepare; the search for the goal's product is done when it is first needed."""
        self.goal = goal
        self._pages = pages
        options = goal.options
        self._wanted: list[str | tuple[str, str]] = (
            list(options.items()) if isinstance(options, Mapping) else list(options)
        )
        self._offers: dict[int, dict[str, dict[str, int]] | None] = {}
        self._fresh: int | None = None
        self._searched = False

    def steps(self, session: Session) -> int | None:
        """Return the steps to a purchase that earns 1; None where none is known."""
        if session.reward is not None:
            return 0 if session.reward.total == 1.0 else None
        known = [self._from_search(), self._on_page(session)]
        return min((steps for steps in known if steps is not None), default=None)

    def share(self, session: Session) -> float:
        """Return the share of the steps from the search page that is done, in 0..1.

        They are to list a fitting product, to open it, to choose each option, and to buy it. After
        a purchase it is the purchase's reward.
        """
        if session.reward is not None:
            return session.reward.total
        whole, left = self._from_search(), self.steps(session)
        return 0.0 if whole is None or left is None else max(0.0, 1.0 - left / whole)

    def _from_search(self) -> int | None:
        """Search (which every page allows), open the goal's product, choose, and buy."""
        if not self._searched:
            self._searched = True
            clicks = self._choices(self.goal.product, {})
            turns = self._turns()
            if clicks is not None and turns is not None:
                self._fresh = 1 + turns + 1 + clicks + 1
        return self._fresh

    def _turns(self) -> int | None:
        """Count the pages to turn, after the best search known, to the goal's product."""
        catalog, goal = self._pages.catalog, self.goal
        places = [
            hits.index(goal.product) // pg.PAGE_SIZE
            for query in (goal.name.lower(), goal.instruction.lower())
            if goal.product in (hits := catalog.search(query))
        ]
        return min(places, default=None)

    def _on_page(self, session: Session) -> int | None:
        if session.page in ("item", "sub") and session.product is not None:
            clicks = self._choices(session.product.index, session.options)
            return None if clicks is None else clicks + 1 + (session.page == "sub")
        if session.page != "results":
            return None
        ways = []
        for hit in session.shown:
            clicks = self._choices(hit, {})
            if clicks is not None:
                ways.append(1 + clicks + 1)
        if self.goal.product in session.hits:
            at = session.hits.index(self.goal.product) // pg.PAGE_SIZE + 1
            clicks = self._choices(self.goal.product, {})
            if clicks is not None:
                ways.append(abs(at - session.number) + 1 + clicks + 1)
        return min(ways, default=None)

    def _choices(self, index: int, chosen: Mapping[str, str]) -> int | None:
        """Count the options still to be clicked until the product earns 1; None: it never does."""
        if index not in self._offers:
            self._offers[index] = self._find_offers(index)
        offers = self._offers[index]
        if offers is None:
            return None
        clicks = {0: 0}  # which wanted options are met (as bits) -> clicks that it takes
        for name, values in offers.items():
            after: dict[int, int] = {}
            ways = [(values.get(chosen.get(name, ""), 0), 0)]
            ways += [(met, 1) for met in set(values.values())]
            for before, count in clicks.items():
                for met, more in ways:
                    after[before | met] = min(after.get(before | met, 99), count + more)
            clicks = after
        return clicks.get((1 << len(self._wanted)) - 1)

    def _find_offers(self, index: int) -> dict[str, dict[str, int]] | None:
        """Return option name -> value -> the wanted options it meets; None: no choice earns 1."""
        catalog_product = self._pages.catalog.product(index)
        plain = score_purchase(catalog_product, {}, self.goal)
        if plain.r_type < 1.0 or plain.r_att < 1.0 or not plain.r_price:
            return None
        offers: dict[str, dict[str, int]] = {}
        for value, name in self._pages.item(index).clickables.items():
            met = sum(int(option_matches(value, o)) << i for i, o in enumerate(self._wanted))
            if name is not None and met:
                offers.setdefault(name, {})[value] = met
        return offers
