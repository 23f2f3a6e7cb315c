"""One visit to the shop: the state behind the pages, and what every action does to it."""

from __future__ import annotations

import json
import random
from typing import Any, Literal

from eto_gym.envs.webshop import pages as pg
from eto_gym.envs.webshop.catalog.goals import Goal
from eto_gym.envs.webshop.catalog.product import Product
from eto_gym.envs.webshop.pages import Pages, Piece
from eto_gym.envs.webshop.reward import Reward, score_purchase

PageName = Literal["index", "results", "item", "sub", "done"]
BASE_URL = "http://127.0.0.1:3000"
"""The address that the original's text environment pretends to be at; observation mode "url"."""

RANDOM_RESULTS = 50
QUERY_SLOT = "<query>"
"""Stands for the words that an agent fills in, in the admissible action `search[<query>]`."""


class Session:
    """A visit with one goal, from the search page to the purchase.

    Every visit is its own object: nothing is shared but the read-only pages and catalog.

    Attributes:
        goal: What the visitor was asked to buy.
        page: The kind of page shown.
        keywords: Words of the last search, split at single spaces.
        number: Number of the results page, from 1 on.
        hits: Products that the last search found, best first.
        shown: Those of them on the results page.
        product: The product shown or bought.
        sub_page: Name of the sub-page shown, or empty.
        options: Chosen options of the product, name -> value, in the order of choosing.
        seen: Asins opened since the last visit of the search page.
        reward: The reward of the last purchase, or None.
    """

    def __init__(
        self, pages: Pages, goal: Goal, *, session_id: str | None = None, seed: int = 0
    ) -> None:
        """Open the shop at its search page.

        Args:
            pages: The shop's pages.
            goal: What to buy.
            session_id: Name of the visit in the URLs; the goal's index by default.
            seed: Seed of the random products that the search `<r>` shows.
        """
        self.pages = pages
        self.goal = goal
        self.session_id = str(goal.index) if session_id is None else session_id
        self.seed = seed
        self.random_searches = 0
        self.page: PageName = "index"
        self.keywords: list[str] = []
        self.number = 1
        self.hits: list[int] = []
        self.shown: list[int] = []
        self.product: Product | None = None
        self.sub_page = ""
        self.options: dict[str, str] = {}
        self.seen: set[str] = set()
        self.reward: Reward | None = None
        self._bought: tuple[Product, dict[str, str]] | None = None
        self._found: list[str] | None = None  # the keywords that `hits` belong to
        self._products: dict[str, int] = {}  # clickable -> product, of `shown`
        self._head = pg.plain_text(pg.head_pieces(goal.instruction)) + pg.SEPARATOR

    # --- acting ----------------------------------------------------------------------------------

    def act(self, action: str) -> tuple[float, bool]:
        """Take an action and return (reward, whether something was bought by it).

        Any string is legal; one that does not parse, or names nothing on the page, changes nothing.
        """
        name, argument = pg.parse_action(action)
        if argument is None:
            return 0.0, False
        argument = argument.lower()
        if name == "search":
            self.keywords = argument.split(" ")
            self._show_results(1)
        elif name == "click":
            return self._click(argument)
        return 0.0, False

    def _click(self, target: str) -> tuple[float, bool]:
        if self.page == "results":
            self._click_on_results(target)
        elif self.page == "item" and self.product is not None:
            return self._click_on_item(target, self.product)
        elif self.page == "sub":
            if target == "back to search":
                self._open_index()
            elif target == "< prev":
                self.page, self.sub_page = "item", ""
        return 0.0, False

    def _click_on_results(self, target: str) -> None:
        if target == "back to search":
            self._open_index()
        elif target == "next >":
            self._show_results(self.number + 1)
        elif target == "< prev" and self.number > 1:
            self._show_results(self.number - 1)
        elif target in self._products:
            self.product = self.pages.catalog.product(self._products[target])
            self.seen.add(self.product.asin)
            self.page = "item"

    def _click_on_item(self, target: str, product: Product) -> tuple[float, bool]:
        clickables = self.pages.item(product.index).clickables
        if target not in clickables or target == "search":
            return 0.0, False
        # Buttons come first: an option named like a button acts as the button.
        if target == "buy now":
            self.page = "done"
            return self._buy(product, dict(self.options)).total, True
        if target == "back to search":
            self._open_index()
        elif target == "< prev":
            self._show_results(self.number)
        elif target in pg.SUB_PAGES:
            self.page, self.sub_page = "sub", pg.SUB_PAGES[target]
        else:
            name = clickables[target]
            if name is not None:
                self.options[name] = target
        return 0.0, False

    def _buy(self, product: Product, options: dict[str, str]) -> Reward:
        self._bought = (product, options)
        self.reward = score_purchase(product, options, self.goal)
        return self.reward

    def _open_index(self) -> None:
        self.page = "index"
        self.keywords, self.hits, self.shown = [], [], []
        self._found = None
        self._leave_product()
        self.seen = set()

    def _show_results(self, number: int) -> None:
        """Show one page of the search's products; like the original, forget all choices.

        The original searches again on every results page. That matters only where the search is a
        random draw.
        """
        self.page = "results"
        self.number = number
        self._leave_product()
        if self.keywords[0] == "<r>":
            self.random_searches += 1
            self._found = None
        self._list_products()

    def _leave_product(self) -> None:
        self.product = None
        self.sub_page = ""
        self.options = {}

    def found(self) -> list[int]:
        """Return the products of the last search; one that goes on from a snapshot searches now."""
        if self._found != self.keywords:
            self._run_search()
            self._found = self.keywords
        return self.hits

    def _list_products(self) -> None:
        self.found()
        end = self.number * pg.PAGE_SIZE
        self.shown = self.hits[end - pg.PAGE_SIZE : end]
        self._products = {self.pages.result(index)[0]: index for index in self.shown}

    def _run_search(self) -> None:
        catalog = self.pages.catalog
        first, rest = self.keywords[0], " ".join(self.keywords[1:]).strip()
        if first == "<r>":
            rng = random.Random(f"{self.seed}/{self.random_searches}")
            self.hits = rng.sample(range(len(catalog)), min(RANDOM_RESULTS, len(catalog)))
        elif first == "<q>":
            self.hits = catalog.with_query(rest)
        elif first == "<c>":
            # Only the second word counts. Without one the original crashes; here it is empty.
            self.hits = catalog.with_category("".join(self.keywords[1:2]).strip())
        elif first == "<a>":
            self.hits = catalog.with_attribute(rest)
        else:
            self.hits = catalog.search(" ".join(self.keywords))

    # --- looking ---------------------------------------------------------------------------------

    @property
    def has_search_bar(self) -> bool:
        """Whether the page shows the search bar; searching works on every page."""
        return self.page == "index"

    def clickables(self) -> list[str]:
        """Return what the page offers to click, lower-cased, in its order."""
        if self.page == "index":
            return ["search"]
        if self.page == "results":
            bar = ["back to search", "< prev", "next >"]
            if self.number == 1:
                bar.remove("< prev")
            return [*bar, *self._products]
        if self.page == "item" and self.product is not None:
            return list(self.pages.item(self.product.index).clickables)
        return ["back to search", "< prev"] if self.page == "sub" else []

    def admissible_actions(self) -> list[str]:
        """Return the sorted actions that do something; `search[<query>]` stands for the search bar.

        Left out are clickables that no action reaches, see `click_actions`.
        """
        if self.has_search_bar:
            return [f"search[{QUERY_SLOT}]"]
        if self.page == "item" and self.product is not None:
            return list(self.pages.item(self.product.index).actions)
        return pg.click_actions(self.clickables())

    @property
    def url(self) -> str:
        """The page's address, as the original writes it."""
        words = "+".join(self.keywords)
        asin = "" if self.product is None else self.product.asin
        tail = {
            "index": f"/{self.session_id}",
            "results": f"/search_results/{self.session_id}/{words}/{self.number}",
            "item": f"/item_page/{self.session_id}/{asin}/{words}/{self.number}/"
            + json.dumps(self.options),
            "sub": f"/item_sub_page/{self.session_id}/{asin}/{words}/{self.number}/"
            f"{self.sub_page}/{self.options}",
            "done": f"/done/{self.session_id}/{asin}/{self.options}",
        }
        return BASE_URL + tail[self.page]

    def text(self) -> str:
        """Render the page in observation mode "text"."""
        if self.page == "results":
            shown = [pg.results_bar_text(self.number, len(self.hits))]
            shown += [self.pages.result(index)[1] for index in self.shown]
            return self._head + pg.SEPARATOR.join(shown)
        if self.page == "item" and self.product is not None:
            return self._head + self.pages.item(self.product.index).text
        return pg.plain_text(self.pieces())

    def rich_text(self) -> str:
        """Render the page in observation mode "text_rich"."""
        return pg.rich_text(self.pieces(), self.url, self.seen)

    def pieces(self) -> list[Piece]:
        """Return the page as its pieces of text."""
        if self.page == "index":
            return pg.index_pieces(self.goal.instruction)
        head = pg.head_pieces(self.goal.instruction)
        if self.page == "results":
            head += pg.results_bar_pieces(self.number, len(self.hits))
            for index in self.shown:
                head += self.pages.result_pieces(index)
            return head
        assert self.product is not None, "item, sub-page and done page show a product"
        if self.page == "item":
            return [*head, *self.pages.item(self.product.index).pieces]
        if self.page == "sub":
            return head + pg.sub_page_pieces(self.product, self.sub_page)
        assert self.reward is not None, "the done page follows a purchase"
        return pg.done_pieces(self.product.asin, self.options, self.reward.total)

    # --- snapshots -------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return a JSON-serialisable snapshot; the goal is not part of it."""
        return {
            "session_id": self.session_id,
            "seed": self.seed,
            "random_searches": self.random_searches,
            "page": self.page,
            "keywords": list(self.keywords),
            "number": self.number,
            "asin": None if self.product is None else self.product.asin,
            "sub_page": self.sub_page,
            "options": dict(self.options),
            "seen": sorted(self.seen),
            "bought": None
            if self._bought is None
            else {"asin": self._bought[0].asin, "options": dict(self._bought[1])},
        }

    @classmethod
    def from_state(cls, pages: Pages, goal: Goal, state: dict[str, Any]) -> Session:
        """Continue a visit with the same goal from what `get_state` returned."""
        session = cls(pages, goal, session_id=state["session_id"], seed=state["seed"])
        catalog = pages.catalog
        if state["bought"] is not None:
            bought = state["bought"]
            session._buy(catalog.product(bought["asin"]), dict(bought["options"]))
        session.random_searches = state["random_searches"]
        session.page = state["page"]
        session.keywords = list(state["keywords"])
        session.number = state["number"]
        if state["asin"] is not None:
            session.product = catalog.product(state["asin"])
        session.sub_page = state["sub_page"]
        session.options = dict(state["options"])
        session.seen = set(state["seen"])
        if session.page == "results":
            session._list_products()
        return session
