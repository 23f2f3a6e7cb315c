"""Renderings of the pages: blank texts, marks of text_rich, and HTML that says the same."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.webshop.pages import Pages, Piece, plain_text, rich_text
from eto_gym.envs.webshop.session import Session
from tests.envs.webshop.small import play, small_catalog, visit

SHOP = small_catalog()
ODD = "click[b000000odd]"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("", "a [SEP] b"),
        (" ", "a [SEP]  [SEP] b"),
        ("\t \r", "a [SEP]  [SEP] b"),
        ("\n", "a [SEP] b"),
        (" \n\t", "a [SEP] b"),
        ("\u00a0", "a [SEP]  [SEP] b"),
        ("\u00a0\n", "a [SEP]  [SEP] b"),
        (" x\ny ", "a [SEP] x\ny [SEP] b"),
        ("<b>x</b>", "a [SEP] <b>x</b> [SEP] b"),
    ],
)
def test_blank_and_odd_nodes(raw: str, shown: str) -> None:
    assert plain_text([Piece("a"), Piece(raw), Piece("b")]) == shown


def test_sub_pages_of_odd_texts() -> None:
    session = play(visit(SHOP), "search[odd]", ODD, "click[features]")
    assert session.text().split("< Prev")[1] == (" [SEP]  [SEP]  [SEP] Dish washer safe\nand light")
    assert (
        play(session, "click[< prev]", "click[description]")
        .text()
        .endswith('< Prev [SEP] He said "buy" & <b>left</b>')
    )
    assert play(session, "click[< prev]", "click[reviews]").text().endswith("< Prev")


def test_attributes_show_only_on_request() -> None:
    hidden = play(visit(SHOP), "search[odd]", ODD)
    assert "attributes" not in hidden.clickables()
    assert play(hidden, "click[attributes]").page == "item"
    shown = play(visit(SHOP, show_attributes=True), "search[odd]", ODD, "click[attributes]")
    assert shown.text().endswith(
        "< Prev [SEP] dish washer safe [SEP] hand made [SEP] garden [SEP] mugs [SEP] Home › Kitchen"
    )


def test_the_done_page_escapes_options_as_the_original() -> None:
    session = play(visit(SHOP), "search[odd]", ODD, "click[next >]", "click[buy now]")
    assert ' [SEP] {"color": "next \\u003e"} [SEP] ' in session.text()
    assert session.url.endswith("/B000000ODD/{'color': 'next >'}")


def test_rich_text_marks_what_was_clicked() -> None:
    session = play(visit(SHOP), "search[odd]", ODD, "click[red]")
    text = session.rich_text()
    assert text.startswith("You have clicked red.\nInstruction:\n")
    assert "  [clicked button] red [clicked button_]\n" in text
    assert "  [button] small [button_]\n" in text
    assert "[clicked button] B000000ODD [clicked" in play(session, "click[< prev]").rich_text()
    play(session, "click[back to search]", "search[odd]")
    assert "[button] B000000ODD [button_]" in session.rich_text()


def test_rich_text_of_blank_nodes() -> None:
    assert rich_text([Piece(""), Piece(" \n"), Piece("  "), Piece("x")], "", ()) == " \nx\n"


class _TextNodes(HTMLParser):
    """Collects the visible text nodes, blank space collapsed as HTML parsers do."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.nodes: list[str] = []
        self._hidden = 0
        self._text = ""

    def _end_node(self) -> None:
        text, self._text = self._text, ""
        if not text.strip(" \t\n\f\r"):
            text = "" if "\n" in text or not text else " "
        if text and not self._hidden:
            self.nodes.append(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_node()
        self._hidden += tag == "title"

    def handle_endtag(self, tag: str) -> None:
        self._end_node()
        self._hidden -= tag == "title"

    def handle_decl(self, decl: str) -> None:
        self._end_node()

    def handle_data(self, data: str) -> None:
        self._text += data

    def close(self) -> None:
        super().close()
        self._end_node()


def text_of_html(html: str) -> str:
    parser = _TextNodes()
    parser.feed(html)
    parser.close()
    return " [SEP] ".join(node.strip() for node in parser.nodes)


ACTIONS = st.sampled_from(
    [
        *("search[mug]", "search[odd]", "search[<c> </p>]", "click[next >]", "click[< prev]"),
        *("click[b000000odd]", "click[b0script00]", "click[red]", "click[features]"),
        *("click[description]", "click[attributes]", "click[buy now]", "click[back to search]"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=8), st.booleans())
def test_html_says_what_the_text_says(actions: list[str], shown: bool) -> None:
    pytest.importorskip("jinja2")
    from eto_gym.envs.webshop.site.html import HtmlPages

    html = HtmlPages()
    session = visit(SHOP, show_attributes=shown)
    for action in ["", *actions]:
        session.act(action)
        assert text_of_html(html.render(session)) == session.text()


def test_html_names_the_things_that_agents_look_for() -> None:
    pytest.importorskip("jinja2")
    from eto_gym.envs.webshop.site.html import HtmlPages

    html = HtmlPages()
    session = visit(SHOP)
    assert 'id="search_input"' in html.render(session)
    page = html.render(play(session, "search[script]"))
    assert "<script" not in page
    assert 'class="product-link">B0SCRIPT00<' in page
    page = html.render(play(session, "search[odd]", ODD, "click[red]"))
    assert 'value="click[red]" class="option" aria-pressed="true"' in page
    assert 'value="click[small]" class="option" aria-pressed="false"' in page


def test_pages_are_kept_per_builder() -> None:
    plain, full = Pages(SHOP), Pages(SHOP, show_attributes=True)
    index = SHOP.find("B000000ODD")
    assert index is not None
    assert plain.item(index) is plain.item(index)
    assert "Attributes" not in plain.item(index).text
    assert "Attributes" in full.item(index).text
    assert isinstance(Session(plain, SHOP.goals("human")[0]).text(), str)
