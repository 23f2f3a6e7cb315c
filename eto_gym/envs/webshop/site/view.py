"""The view models of the page templates."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from eto_gym.envs.webshop import pages as pg
from eto_gym.envs.webshop.session import PageName, Session

Button = tuple[str, str]
"""A button's label and the action that it stands for."""


@dataclass(frozen=True, slots=True)
class ResultView:
    """One product on a results page."""

    asin: Button
    title: str
    price: str
    hue: int
    category: str


@dataclass(frozen=True, slots=True)
class OptionView:
    """One value of an option: its button, and whether it is the chosen one."""

    button: Button
    chosen: bool


@dataclass(frozen=True, slots=True)
class PageView:
    """A page, ready for a template.

    Attributes:
        page: Kind of the page.
        instruction: What to buy.
        buttons: The navigation buttons under the instruction.
        summary: "Page 1 (Total results: 50)" of a results page.
        results: Products of a results page.
        title: Title of the product shown.
        facts: Its price and rating.
        options: Its options and their values.
        sub_pages: Buttons of its sub-pages.
        lines: Text of a sub-page.
        hue: Hue of its drawing, 0..359; there are no photos.
        category: Its department.
        done: Texts of the page after a purchase.
    """

    page: PageName
    instruction: str
    buttons: Sequence[Button] = ()
    summary: str = ""
    results: Sequence[ResultView] = ()
    title: str = ""
    facts: Sequence[str] = ()
    options: Sequence[tuple[str, Sequence[OptionView]]] = ()
    sub_pages: Sequence[Button] = ()
    lines: Sequence[str] = ()
    hue: int = 0
    category: str = ""
    done: Sequence[str] = ()


def page_view(session: Session) -> PageView:
    """Describe the page that a visit shows."""
    instruction = session.goal.instruction
    if session.page == "index":
        return PageView("index", instruction)
    if session.page == "results":
        bar = pg.results_bar_pieces(session.number, len(session.hits))
        return PageView(
            "results",
            instruction,
            buttons=[_button(pg.BACK), *(_button(p.text) for p in bar if p.kind == "button")],
            summary=bar[0].text,
            results=[_result(session, index) for index in session.shown],
        )
    product = session.product
    assert product is not None, "every other page shows a product"
    if session.page == "done":
        texts = [piece.text for piece in session.pieces()]
        return PageView("done", instruction, done=texts, title=product.title)
    back = [_button(pg.BACK), _button(pg.PREV)]
    if session.page == "sub":
        lines = [p.text for p in pg.sub_page_pieces(product, session.sub_page)[1:]]
        return PageView("sub", instruction, buttons=back, lines=lines, title=session.sub_page)
    buttons = [p.text for p in session.pages.item(product.index).pieces if p.kind == "button"]
    return PageView(
        "item",
        instruction,
        buttons=back,
        title=product.title,
        facts=(f"Price: {product.price_text}", "Rating: N.A."),
        options=[
            (
                name,
                [OptionView(_button(v), session.options.get(name) == v) for v in values],
            )
            for name, values in product.options.items()
        ],
        sub_pages=[_button(text) for text in buttons if text not in (pg.PREV, pg.BUY)],
        hue=_hue(product.asin),
        category=product.category,
    )


def _result(session: Session, index: int) -> ResultView:
    product = session.pages.catalog.product(index)
    return ResultView(
        asin=_button(product.asin),
        title=product.title,
        price=product.price_text,
        hue=_hue(product.asin),
        category=product.category,
    )


def _button(label: str) -> Button:
    return label, f"click[{label}]"


def _hue(asin: str) -> int:
    return zlib.crc32(asin.encode("utf-8", "surrogatepass")) % 360
