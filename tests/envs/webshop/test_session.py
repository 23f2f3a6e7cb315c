"""What actions do to a visit: parsing, oddities kept and fixed, searches, snapshots."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.webshop.pages import Pages, parse_action
from eto_gym.envs.webshop.session import Session
from tests.envs.webshop.small import ODD_VALUES, play, small_catalog, visit

SHOP = small_catalog()
ODD = "click[b000000odd]"


@settings(deadline=None)
@given(st.text("[]ab\n\r \u2028", max_size=12))
def test_actions_parse_as_by_the_original_pattern(action: str) -> None:
    match = re.match(r"(.+)\[(.+)\]", action)
    assert parse_action(action) == (match.groups() if match else (action, None))


def test_long_hostile_actions_parse_quickly() -> None:
    assert parse_action("[" * 200_000) == ("[" * 200_000, None)
    assert parse_action("a[" * 100_000 + "]")[1] == "a["
    assert parse_action("search[" + "x]" * 100_000) == ("search", ("x]" * 100_000)[:-1])


WORDS = ["mug", "<r>", "<q> mugs", "<c> garden", "<a> hand made", "<c>", "<a>", "zzz", " "]
TARGETS = [
    *("back to search", "< prev", "next >", "buy now", "description", "features", "reviews"),
    *("attributes", "search", "b000000odd", "b000000001", "b0lower123", "large", *ODD_VALUES),
]
ACTIONS = st.one_of(
    st.sampled_from(WORDS).map("search[{}]".format),
    st.sampled_from(TARGETS).map("click[{}]".format),
    st.sampled_from(TARGETS).map("click[{}]".format).map(str.upper),
    st.text(),
    st.text().map("search[{}]".format),
    st.text().map("click[{}]".format),
)


@settings(deadline=None)
@given(st.lists(ACTIONS, max_size=14), st.booleans())
def test_any_string_is_legal_and_pages_stay_consistent(actions: list[str], shown: bool) -> None:
    session = visit(SHOP, show_attributes=shown)
    for action in actions:
        before = (session.text(), session.clickables())
        named = parse_action(action)
        reward, bought = session.act(action)
        clicked = named[0] == "click" and (named[1] or "").lower() in before[1]
        if named[0] != "search" and not clicked:
            assert (session.text(), session.clickables()) == before
        assert 0.0 <= reward <= 1.0
        assert bought == (session.page == "done" and clicked)
        assert session.text().startswith(
            {"index": "WebShop", "done": "Thank you"}.get(session.page, "Instruction: [SEP] find")
        )
        assert isinstance(session.rich_text() + session.url, str)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=10), st.lists(ACTIONS, max_size=8))
def test_a_restored_visit_goes_on_as_the_first(before: list[str], after: list[str]) -> None:
    session = play(visit(SHOP), *before)
    state = json.loads(json.dumps(session.get_state()))
    copies = [Session.from_state(session.pages, session.goal, state) for _ in range(2)]
    for action in ["", *after]:
        expected = session.act(action)
        for copy in copies:
            assert copy.act(action) == expected
            assert (copy.text(), copy.rich_text(), copy.url, copy.reward) == (
                *(session.text(), session.rich_text(), session.url),
                session.reward,
            )
    assert json.loads(json.dumps(copies[0].get_state())) == session.get_state()


@settings(deadline=None)
@given(st.lists(ACTIONS, max_size=8))
def test_admissible_actions_name_what_can_be_clicked(actions: list[str]) -> None:
    session = play(visit(SHOP), *actions)
    admissible = session.admissible_actions()
    assert admissible == sorted(set(admissible))
    for action in admissible:
        name, argument = parse_action(action)
        assert name in {"click", "search"}
        assert argument == "<query>" or argument in session.clickables()


def test_unreachable_values_are_clickable_but_not_admissible() -> None:
    session = play(visit(SHOP), "search[odd]", ODD)
    clickables = session.clickables()
    assert {"", "a [b]", "two\nlines", "search"} <= set(clickables)
    admissible = session.admissible_actions()
    assert "click[red]" in admissible
    assert not {"click[]", "click[a [b]]", "click[two\nlines]", "click[search]"} & set(admissible)


def test_an_option_named_like_a_button_is_the_button() -> None:
    assert play(visit(SHOP), "search[odd]", ODD, "click[features]").page == "sub"
    assert play(visit(SHOP), "search[odd]", ODD, "click[back to search]").page == "index"
    session = play(visit(SHOP), "search[odd]", ODD, "click[next >]")
    assert session.options == {"color": "next >"}, "there is no such button on this page"


def test_a_shared_value_belongs_to_the_last_option() -> None:
    session = play(visit(SHOP), "search[odd]", ODD, "click[large]", "click[small]")
    assert session.options == {"pattern": "large", "size": "small"}


def test_options_last_over_a_sub_page_and_end_at_the_results() -> None:
    session = play(visit(SHOP), "search[odd]", ODD, "click[red]", "click[description]")
    assert play(session, "click[< prev]").options == {"color": "red"}
    assert play(session, "click[< prev]", ODD).options == {}


def test_a_lower_case_id_opens_its_product() -> None:
    session = play(visit(SHOP), "search[<q> cups]", "click[B0LOWER123]")
    assert session.product is not None
    assert session.product.asin == "b0lower123"


@pytest.mark.parametrize("words", ["search_results mug", "item_page mug", "done item_sub_page mug"])
def test_words_that_look_like_page_names_do_not_misroute(words: str) -> None:
    session = play(visit(SHOP), f"search[{words}]", "click[next >]", "click[< prev]")
    results = session.text()
    assert session.number == 1
    session.act(f"click[{session.clickables()[-1]}]")
    item = session.text()
    session.act("click[description]")
    session.act("click[< prev]")
    assert session.text() == item
    session.act("click[< prev]")
    assert session.text() == results


def test_special_searches() -> None:
    def titles(action: str) -> list[str]:
        session = play(visit(SHOP), action)
        return [SHOP.title(index) for index in session.hits]

    assert titles("search[<q> cups]") == ["Tiny Lower Mug"]
    assert titles("search[<q> CUPS ]") == ["Tiny Lower Mug"]
    assert len(titles("search[<c> garden]")) == 11
    assert len(titles("search[<c> garden beauty]")) == 11, "only the second word counts"
    assert titles("search[<c>  garden]") == [], "the second word is empty"
    assert titles("search[<a> hand made]") == ["Plain Mug 1", "Odd Mug"]
    for empty in ("<c>", "<q>", "<a>", "<a> hand", "<x> cups"):
        assert titles(f"search[{empty}]") in ([], ["Tiny Lower Mug"])


def test_a_random_search_depends_on_the_seed_and_draws_anew() -> None:
    def hits(seed: int, *actions: str) -> list[int]:
        goal = SHOP.goals("human")[0]
        return play(Session(Pages(SHOP), goal, seed=seed), *actions).hits

    first = hits(1, "search[<r>]")
    assert sorted(first) == list(range(len(SHOP)))
    assert first == hits(1, "search[<r> anything]")
    assert first != hits(2, "search[<r>]")
    assert first != hits(1, "search[<r>]", "click[next >]")


def test_visits_share_nothing() -> None:
    pages = Pages(SHOP)
    goal = SHOP.goals("human")[0]
    one, other = (Session(pages, goal, session_id="same") for _ in range(2))
    untouched = (other.text(), other.url, other.get_state())
    play(one, "search[odd]", ODD, "click[red]", "click[buy now]")
    assert (other.text(), other.url, other.get_state()) == untouched
    play(other, "search[odd]", ODD)
    assert other.options == {}


def test_buying_works_only_on_a_product_page_and_can_be_done_again() -> None:
    session = visit(SHOP)
    for action in ("click[buy now]", "search[odd]", "click[buy now]", ODD, "click[description]"):
        assert session.act(action) == (0.0, False)
    assert session.act("click[buy now]") == (0.0, False)
    session.act("click[< prev]")
    reward, bought = session.act("click[Buy Now]")
    assert bought
    assert reward == pytest.approx(0.5), "attribute and price are met, the two options are not"
    assert session.clickables() == []
    assert session.act("click[buy now]") == (0.0, False)
    play(session, "search[odd]", ODD, "click[red]", "click[large]")
    assert session.act("click[buy now]") == (1.0, True)


def test_states_hold_no_goal() -> None:
    state: dict[str, Any] = play(visit(SHOP), "search[odd]", ODD).get_state()
    assert "hand made" not in json.dumps(state)
