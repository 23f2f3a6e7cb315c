"""State keys and steps to go of visits to a small shop, against all that can be clicked."""

from __future__ import annotations

from collections import deque

import pytest

from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.credit import Shortest, state_parts
from eto_gym.envs.webshop.pages import Pages
from eto_gym.envs.webshop.session import Session
from tests.envs.webshop.small import play, small_catalog, visit

SEARCHES = ("search[odd mug]", "search[mug]", "search[nothing at all]")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return small_catalog()


def fork(session: Session) -> Session:
    return Session.from_state(session.pages, session.goal, session.get_state())


def name(session: Session) -> str:
    return repr(state_parts(session, address=False))


def reachable(start: Session) -> tuple[list[Session], dict[str, list[str]]]:
    """All visits by clicks and some searches, one for each key, and where each leads.

    Pages without a product are left alone, and so is all that follows a purchase.
    """
    visits = {name(start): start}
    edges: dict[str, list[str]] = {}
    queue = deque([start])
    while queue:
        session = queue.popleft()
        if session.page == "done":
            continue
        clicks = [f"click[{c}]" for c in session.clickables() if c != "next >" or session.shown]
        ends = []
        for action in (*SEARCHES, *clicks):
            after = play(fork(session), action)
            ends.append(name(after))
            if ends[-1] not in visits:
                visits[ends[-1]] = after
                queue.append(after)
        edges[name(session)] = ends
    return list(visits.values()), edges


def test_a_visit_that_goes_on_from_a_snapshot_has_the_same_key(catalog: Catalog) -> None:
    for session in reachable(visit(catalog))[0]:
        assert name(fork(session)) == name(session)
    session = play(visit(catalog), "search[mug]")
    shown = session.clickables()[-1]
    for action in (f"click[{shown}]", "click[description]", "click[< prev]"):
        session = play(session, action)
        assert name(fork(session)) == name(session), action


def test_steps_are_those_of_an_exhaustive_search(catalog: Catalog) -> None:
    start = visit(catalog)
    visits, edges = reachable(start)
    left = {name(s): 0 for s in visits if s.reward is not None and s.reward.total == 1.0}
    assert left, "the reward can be had"
    for steps in range(1, 9):
        left |= {
            at: steps
            for at, ends in edges.items()
            if at not in left and any(left.get(end) == steps - 1 for end in ends)
        }
    shortest = Shortest(start.pages, start.goal)
    for session in visits:
        assert shortest.steps(session) == left.get(name(session)), session.url
    assert len(visits) > 100
    assert shortest.steps(start) == left[name(start)] == 5  # search, open, red, large, buy


def test_after_another_purchase_success_is_out_of_reach(catalog: Catalog) -> None:
    session = visit(catalog)
    shortest = Shortest(session.pages, session.goal)
    play(session, "search[odd mug]", "click[b000000odd]", "click[red]", "click[buy now]")
    assert session.reward is not None
    assert 0.0 < session.reward.total < 1.0
    assert shortest.steps(session) is None
    assert shortest.share(session) == session.reward.total


def test_keys_are_equal_where_pages_and_choices_are(catalog: Catalog) -> None:
    def key(*actions: str, address: bool = False) -> str:
        return repr(state_parts(play(visit(catalog), *actions), address=address))

    opened = ("search[odd mug]", "click[b000000odd]")
    assert key(*opened, "click[red]", "click[large]") == key(*opened, "click[large]", "click[red]")
    assert key(*opened, "click[red]") != key(*opened)
    assert key(*opened, "click[back to search]") == key()
    assert key("search[odd mug]") == key("search[odd  mug]")
    assert key("search[odd mug]", address=True) != key("search[odd  mug]", address=True)
    assert key("search[<r>]") != key("search[odd mug]")
    assert key(*opened, "nonsense") == key(*opened)


def test_a_goal_that_no_known_product_meets_has_no_count() -> None:
    session = visit(small_catalog(), "B000000001")
    goal = session.goal
    poor = type(goal)(**{n: getattr(goal, n) for n in goal.__slots__} | {"price_upper": 0.5})
    pages = Pages(small_catalog())
    assert Shortest(pages, poor).steps(Session(pages, poor)) is None
    assert Shortest(pages, goal).steps(Session(pages, goal)) == 3
