"""What a shopper has seen and done so far, in a few lines: the state block of WebShop."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from eto_gym.envs.webshop.pages import BUY, PREV, SEPARATOR, SUB_PAGES, parse_action
from eto_gym.history import Recap

_INSTRUCTION = re.compile(r"Instruction: ?{0}(.*?){0}".format(re.escape(SEPARATOR)))
_RESULTS = re.compile(re.escape(SEPARATOR) + r"Page (\d+) \(Total results: \d+\)")
_LONGEST = 100  # characters of a query, a title or an option


@dataclass(slots=True)
class _Product:
    """A product that was opened, as its page shows it."""

    title: str = ""
    price: str = ""
    read: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Visit:
    """What the pages (in observation mode "text") and the actions have told so far."""

    place: str = "index"  # or "results", "item", "sub"
    where: str = "the search page"
    queries: list[str] = field(default_factory=list)
    opened: dict[str, _Product] = field(default_factory=dict)
    clicked: list[str] = field(default_factory=list)
    _asin: str = ""

    def update(self, action: str, observation: str) -> None:
        """Take in an action and the page that it led to."""
        name, argument = parse_action(action)
        target = (argument or "").lower()
        pieces = observation.split(SEPARATOR)
        before, self.place = self.place, _place(pieces, observation)
        if self.place == "results":
            if name == "search" and argument:
                self.queries.append(target)
            found = _RESULTS.search(observation)
            query = _short(self.queries[-1]) if self.queries else ""
            self.where = f'page {found[1] if found else 1} of the results for "{query}"'
        elif self.place == "item":
            self._see_product(pieces, target if name == "click" else "", before)
        elif self.place == "sub":
            if name == "click" and target in SUB_PAGES and before == "item" and self._asin:
                read = self.opened[self._asin].read
                if target not in read:
                    read.append(target)
                self.where = f"the {target} of {self._asin}"
        elif self.place == "index":
            self.where = "the search page"

    def _see_product(self, pieces: list[str], target: str, before: str) -> None:
        price = next((i for i, piece in enumerate(pieces) if piece.startswith("Price: ")), 0)
        if before == "results":
            self._asin, self.clicked = target.upper(), []
            product = self.opened.setdefault(self._asin, _Product())
            if price:
                product.title = pieces[price - 1]
                product.price = pieces[price].removeprefix("Price: ")
        elif before == "item" and PREV in pieces and target:
            offered = [p.lower() for p in pieces[pieces.index(PREV) + 1 : max(price - 1, 0)]]
            if target in offered and target not in self.clicked:
                self.clicked.append(target)
        self.where = f"the page of {self._asin}"


class ShopRecap(Recap):
    """Writes the request, the page, the queries, what was opened and clicked.

    It reads pages in observation mode "text".
    """

    def __init__(self, first: str) -> None:
        """Start with the first observation."""
        super().__init__(first)
        request = _INSTRUCTION.search(first)
        self._request = request[1] if request else ""
        self._visit = _Visit()

    def _update(self, action: str, observation: str) -> None:
        self._visit.update(action, observation)

    def _write(self) -> str:
        visit = self._visit
        lines = [f"Task: {self._request}", f"You are on: {visit.where}"]
        if visit.queries:
            lines.append(f"Searched: {'; '.join(map(_short, visit.queries))}")
        for asin, product in visit.opened.items():
            read = f" (read: {', '.join(product.read)})" if product.read else ""
            lines.append(f"Opened: {asin}, {_short(product.title)}, {product.price}{read}")
        if visit.clicked and visit.place in ("item", "sub"):
            lines.append(f"Clicked on this product: {', '.join(map(_short, visit.clicked))}")
        return "\n".join(["So far:", *lines])


def _place(pieces: list[str], observation: str) -> str:
    if _RESULTS.search(observation):
        return "results"
    if pieces[-1] == BUY:
        return "item"
    return "index" if pieces[0] == "WebShop" else "sub"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
