"""The shop's pages: their pieces of text, what can be clicked on them, and plain-text renderings.

A page is a sequence of pieces, each the text of one HTML node of the original's page. Every text
rendering derives from that sequence, so no HTML is built or parsed on the way. The parts that
depend on a product alone are built once per product and kept.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.catalog.product import Product

SEPARATOR = " [SEP] "
PAGE_SIZE = 10
SEARCH, BACK, PREV, NEXT, BUY = "Search", "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = {name.lower(): name for name in ("Description", "Features", "Reviews", "Attributes")}
"""Clickable of a product's sub-page -> its name."""

_KEPT_PRODUCTS = 4096
# What an HTML parser takes for blank space between tags; other spaces (U+00A0) count as text.
_HTML_SPACE = " \t\n\f\r"
_JSON_FOR_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"})

PieceKind = Literal["text", "button", "option", "product"]


class Piece(NamedTuple):
    """One piece of visible text, as the HTML node holds it, and what kind of node it is."""

    text: str
    kind: PieceKind = "text"


@dataclass(frozen=True, slots=True)
class ItemPage:
    """The part of a product's page that depends on the product alone.

    Attributes:
        pieces: The pieces after the page's head.
        text: The same in the plain-text rendering.
        clickables: Lower-cased clickable -> name of the option that it sets, or None for a button,
            in the order of the page. A value that two options share belongs to the last one.
        actions: The sorted actions that click them, see `click_actions`.
    """

    pieces: tuple[Piece, ...]
    text: str
    clickables: Mapping[str, str | None]
    actions: tuple[str, ...]


class Pages:
    """Builds the pages of one catalog; shared by all environments that show it."""

    def __init__(self, catalog: Catalog, *, show_attributes: bool = False) -> None:
        """Create the builder.

        Args:
            catalog: The products.
            show_attributes: Offer a product's attributes as a fourth sub-page; off by default
                because they are what the reward compares, and the original hides them too.
        """
        self.catalog = catalog
        self.show_attributes = show_attributes
        # Bounded, so that a million products do not fill the memory one page after the other.
        self.item = lru_cache(_KEPT_PRODUCTS)(self._item)
        self.result = lru_cache(_KEPT_PRODUCTS)(self._result)

    def result_pieces(self, product: int) -> tuple[Piece, Piece, Piece]:
        """Return the pieces of one product on a results page."""
        catalog = self.catalog
        return (
            Piece(catalog.asin(product), "product"),
            Piece(catalog.title(product)),
            Piece(catalog.price_text(product)),
        )

    def _result(self, product: int) -> tuple[str, str]:
        """Return a product's clickable and its plain text on a results page."""
        pieces = self.result_pieces(product)
        return pieces[0].text.lower(), plain_text(pieces)

    def _item(self, index: int) -> ItemPage:
        product = self.catalog.product(index)
        pieces = [Piece(PREV, "button")]
        for name, values in product.options.items():
            pieces.append(Piece(name))
            pieces.extend(Piece(value, "option") for value in values)
        pieces += [
            Piece(product.title),
            Piece(f"Price: {product.price_text}"),
            Piece("Rating: N.A."),
        ]
        subs = [name for name in SUB_PAGES.values() if name != "Attributes" or self.show_attributes]
        pieces += [Piece(name, "button") for name in [*subs, BUY]]
        clickables: dict[str, str | None] = {
            name.lower(): None for name in [BACK, PREV, *subs, BUY]
        }
        for name, values in product.options.items():
            clickables.update(dict.fromkeys(values, name))
        actions = tuple(click_actions(clickables))
        return ItemPage(tuple(pieces), plain_text(pieces), clickables, actions)


def parse_action(action: str) -> tuple[str, str | None]:
    r"""Split `name[argument]` as the original's pattern `(.+)\[(.+)\]` does.

    Both parts are as long as possible, the name first; neither is empty nor crosses a line break;
    what follows is ignored. An action of another form is all name. Linear in the action's length.

    Example:
        >>> parse_action("click[Buy Now] now"), parse_action("buy now")
        (('click', 'Buy Now'), ('buy now', None))
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 0))
    if start < 0:
        return action, None
    return line[:start], line[start + 1 : end]


def click_actions(clickables: Iterable[str]) -> list[str]:
    """Return the sorted actions that click these.

    Left out is what no action reaches: the search button, an empty option value, and values whose
    brackets or line breaks the action format cannot carry.
    """
    return sorted(
        f"click[{target}]"
        for target in clickables
        if target != "search" and parse_action(f"click[{target}]") == ("click", target)
    )


def index_pieces(instruction: str) -> list[Piece]:
    """Return the search page."""
    return [Piece("WebShop"), Piece("Instruction: "), Piece(instruction), Piece(SEARCH, "button")]


def head_pieces(instruction: str) -> list[Piece]:
    """Return what every page but the search page and the last begins with."""
    return [Piece("Instruction:"), Piece(instruction), Piece(BACK, "button")]


@lru_cache(1024)
def results_bar_text(number: int, total: int) -> str:
    """Render `results_bar_pieces` in plain text."""
    return plain_text(results_bar_pieces(number, total))


def results_bar_pieces(number: int, total: int) -> list[Piece]:
    """Return what stands between the head and the products of page `number` (1-based)."""
    pieces = [Piece(f"Page {number} (Total results: {total})")]
    if number > 1:
        pieces.append(Piece(PREV, "button"))
    pieces.append(Piece(NEXT, "button"))
    return pieces


def sub_page_pieces(product: Product, name: str) -> list[Piece]:
    """Return a product's sub-page after the head; the original never has reviews to show."""
    pieces = [Piece(PREV, "button")]
    if name == "Description":
        pieces.append(Piece(product.description))
    elif name == "Features":
        pieces.extend(Piece(f" {bullet}") for bullet in product.bullets)
    elif name == "Attributes":
        pieces.extend(Piece(f" {attribute}") for attribute in product.attributes)
        pieces.extend(map(Piece, (product.category, product.query, product.product_category)))
    return pieces


def done_pieces(asin: str, options: Mapping[str, str], reward: float) -> list[Piece]:
    """Return the page after a purchase.

    The original's text environment leaves every field but three at None, hidden parts included.
    """
    chosen = json.dumps(options, sort_keys=True).translate(_JSON_FOR_HTML)
    texts = (
        *("Thank you for shopping with us!", "Your code: ", "None"),
        *(" (Paste it in your MTurk interface.)", "Purchased", "asin", asin, "options", chosen),
        *("attrs", "None", "category", "None", "query", "None", "product category", "None"),
        *("Target", "asin", "options", "attrs", "price upper", "instuction text", "category"),
        *("product category", "query", "Goal ", "None", "Reward"),
        *("Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None"),
    )
    return [Piece(text) for text in texts]


def plain_text(pieces: Iterable[Piece]) -> str:
    """Render pieces as observation mode "text" does."""
    shown = (_node_text(piece.text) for piece in pieces)
    return SEPARATOR.join(text.strip() for text in shown if text is not None)


def rich_text(pieces: Sequence[Piece], url: str, seen: Container[str]) -> str:
    """Render pieces as observation mode "text_rich" does, with the clickable ones marked.

    Args:
        pieces: The whole page.
        url: The page's URL; a value that stands in it in double quotes counts as chosen. That is
            the original's test, and it misses values that JSON escapes.
        seen: Asins that were opened since the last reset or return to the search page.
    """
    lines: list[str] = []
    notes: list[str] = []
    for piece in pieces:
        text = _node_text(piece.text)
        if text is None:
            continue
        clicked, gap = False, ""
        if piece.kind == "option":
            clicked, gap = f'"{text}"' in url, "  "
            if clicked:
                notes.insert(0, f"You have clicked {text}.\n")
        elif piece.kind == "product":
            clicked, gap = text in seen, "\n"
        if piece.kind == "text":
            lines.append(f"{text}\n")
        elif clicked:
            lines.append(f"{gap}[clicked button] {text} [clicked button_]\n")
        else:
            lines.append(f"{gap}[button] {text} [button_]\n")
    return "".join(notes + lines)


def _node_text(raw: str) -> str | None:
    """Return a node's text as an HTML parser reports it, or None where it has none to show.

    Blank space that holds a line break collapses to one, which the original drops; other blank
    space collapses to one space, which it keeps as an empty segment.
    """
    if raw.strip(_HTML_SPACE):
        return raw
    return None if not raw or "\n" in raw else " "
