"""The site for people, through Flask's test client; test_browser.py uses a real browser."""

from __future__ import annotations

import gc
import json
import re
import socket
import sys
import threading
import time
from typing import Any

import pytest

from eto_gym.cli.main import main
from eto_gym.conversation import parse_reply
from eto_gym.envs.webshop import shop as shop_module
from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.env import WebShopEnv
from eto_gym.trajectories.record import Trajectory
from tests.envs.webshop.small import small_catalog

pytest.importorskip("flask")

import werkzeug.serving

from eto_gym.envs.webshop.site.app import COOKIE, create_app
from eto_gym.envs.webshop.site.visitors import Visitors


def headers(site: str, mode: str = "navigate", dest: str = "document") -> dict[str, str]:
    """What a browser says of where a request comes from."""
    return {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}


TYPED = headers("none")
IMAGE = headers("cross-site", "no-cors", "image")


class Browser:
    """Follows forms as a browser would, with a cookie jar of its own."""

    def __init__(self, app: Any) -> None:
        self.client = app.test_client()
        self.page = ""
        self.look()

    def look(self) -> str:
        response = self.client.get("/", headers=TYPED)
        assert response.status_code == 200
        self.page = response.text
        return self.page

    @property
    def turn(self) -> str:
        found = re.search(r'name="turn" value="(\d+)"', self.page)
        return found.group(1) if found else "0"

    def post(self, path: str = "/act", **form: str) -> str:
        response = self.client.post(path, data={"turn": self.turn, **form})
        assert (response.status_code, response.location) == (303, "/")
        return self.look()

    def buy_the_odd_mug(self) -> str:
        self.post(query="odd")
        for target in ("B000000ODD", "red", "large"):
            self.post(action=f"click[{target}]")
        return self.post(action="click[Buy Now]")


CATALOG = small_catalog()


def odd_goal(catalog: Catalog = CATALOG) -> str:
    goals = catalog.goals("human")
    return str(next(goal.index for goal in goals if goal.asin == "B000000ODD"))


def site(**kwargs: Any) -> Any:
    return create_app(catalog=CATALOG, **kwargs)


def test_a_purchase_shows_the_score_and_equals_the_environments() -> None:
    browser = Browser(site())
    browser.post("/new", goal=odd_goal())
    page = browser.buy_the_odd_mug()
    assert '<output id="score" class="value">1</output>' in page
    assert "Step 5" in page
    assert 'id="parts"' not in page
    assert 'id="reveal"' not in page
    record = json.loads(browser.client.get("/trajectory.json").text)
    trajectory = Trajectory.from_json(record)
    env = WebShopEnv(catalog=CATALOG, split="all")
    env.reset(options={"task": trajectory.task_id})
    for step in trajectory.steps:
        assert step.action is not None
        observation, reward, *_ = env.step(step.action)
        assert (observation, reward) == (step.observation, step.reward)
    assert (trajectory.reward, trajectory.success, trajectory.outcome) == (1.0, True, "terminated")
    assert trajectory.policy == "human"
    assert trajectory.env["benchmark"] == "WebShop"
    replies = [m.content for m in trajectory.messages if m.train]
    assert [getattr(parse_reply(text), "action", None) for text in replies] == [
        step.action for step in trajectory.steps
    ]


def test_reveal_shows_the_goal_and_the_parts() -> None:
    browser = Browser(site(reveal=True))
    page = browser.post("/new", goal=odd_goal())
    assert "B000000ODD: Odd Mug" in page
    assert "<dd>red, large</dd>" in page
    page = browser.buy_the_odd_mug()
    assert re.search(r'<th scope="row">Options</th><td>100%</td><td>50%</td>', page)


def test_texts_are_escaped_everywhere() -> None:
    browser = Browser(site(reveal=True))
    for page in (
        browser.post(query="<script>alert(2)</script>"),
        browser.post(action="click[B0SCRIPT00]"),
        browser.post(action="click[Buy Now]"),
        browser.post("/new", goal="<script>alert(3)</script>"),
    ):
        assert "<script" not in page
    assert "There is no goal" in browser.page


def test_the_answers_carry_strict_headers() -> None:
    response = site().test_client().get("/", headers=TYPED)
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert site().test_client().get("/", headers={"Host": "evil.example"}).status_code == 400


def test_visitors_do_not_see_each_other() -> None:
    app = site()
    one, other = Browser(app), Browser(app)
    one.post("/new", goal=odd_goal())
    before = other.look()
    one.buy_the_odd_mug()
    assert other.look() == before
    assert "Step 5" in one.look()


def test_a_form_of_an_older_page_does_nothing() -> None:
    browser = Browser(site())
    old = browser.turn
    browser.post(query="mug")
    page = browser.post(turn=old, action="click[back to search]")
    assert "out of date" in page
    assert "Step 1" in page
    assert "out of date" not in browser.look(), "a notice is shown once"


def test_an_episode_ends_at_its_step_limit() -> None:
    browser = Browser(site(max_steps=2))
    browser.post(query="mug")
    assert browser.client.get("/trajectory.json").status_code == 409
    page = browser.post(action="click[next >]")
    assert "The steps are used up" in page
    record = Trajectory.from_json(json.loads(browser.client.get("/trajectory.json").text))
    assert (record.outcome, record.reward) == ("truncated", 0.0)
    assert "Step 2 of 2" in browser.post(action="click[back to search]"), "it stays over"
    assert "Step 0 of 2" in browser.post("/new")


def test_reasons_are_exported_but_cannot_act() -> None:
    browser = Browser(site())
    browser.post("/new", goal=odd_goal())
    browser.post(query="odd", thought="It is\nodd.")
    browser.post(action="click[B000000ODD]", thought="\nAction: click[back to search]")
    browser.post(action="click[Buy Now]")
    record = json.loads(browser.client.get("/trajectory.json").text)
    said = [m["content"] for m in record["messages"] if m["train"]]
    assert said[0] == "Thought: It is odd.\nAction: search[odd]"
    assert said[1] == "Thought: Action: click[back to search]\nAction: click[B000000ODD]"
    assert [step["action"] for step in record["steps"]][1] == "click[B000000ODD]"


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"query": " "},
        {"query": "x" * 5000},
        {"action": "\ud7ff\u0000"},
        {"action": "no such action"},
        {"turn": "-1", "action": "click[x]"},
        {"turn": "x"},
    ],
)
def test_odd_forms(form: dict[str, str]) -> None:
    browser = Browser(site())
    browser.post(**form)
    assert browser.client.post("/act", data={"query": "x" * 100_000}).status_code == 413
    for goal in ("99999", "-1", "1.5", "９", "9" * 5000):
        browser.post("/new", goal=goal)


def test_unknown_pages_and_cookies() -> None:
    app = site()
    client = app.test_client()
    assert client.get("/nothing").status_code == 404
    assert client.get("/act").status_code == 405
    client.set_cookie(COOKIE, "forged")
    response = client.get("/", headers=TYPED)
    assert COOKIE in response.headers["Set-Cookie"], "an unknown token is replaced"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        IMAGE,
        headers("same-site", "no-cors", "image"),
        headers("cross-site"),
        headers("same-site"),
        headers("cross-site", "navigate", "iframe"),
        headers("same-origin", "no-cors", "image"),
        headers("cross-site", "cors", "empty") | {"Origin": "http://evil.example"},
    ],
)
def test_a_look_from_elsewhere_makes_no_visitor(asked: dict[str, str]) -> None:
    app = site(visitor_limit=2)
    browser = Browser(app)
    browser.post(query="mug")
    for path in ("/", "/trajectory.json"):
        for _ in range(3):
            response = app.test_client().get(path, headers=asked)
            assert "Set-Cookie" not in response.headers
            assert "Step 0" not in response.text
    assert "Step 1" in browser.look(), "the visit goes on"


def test_whoever_comes_by_a_link_enters_by_a_button_and_goes_on() -> None:
    browser = Browser(site())
    browser.post(query="mug")
    token = browser.client.get_cookie(COOKIE).value
    # A browser sends no strict cookie where another site leads here, but does on the button.
    browser.client.delete_cookie(COOKIE)
    page = browser.client.get("/", headers=headers("cross-site"))
    assert "Enter the shop" in page.text
    assert "Set-Cookie" not in page.headers
    browser.client.set_cookie(COOKIE, token)
    browser.client.post("/enter", headers=headers("same-origin") | {"Origin": "http://localhost"})
    assert "Step 1" in browser.look()
    newcomer = site().test_client()
    assert COOKIE in newcomer.post("/enter").headers["Set-Cookie"]


@pytest.mark.parametrize(
    "asked",
    [
        {"Origin": "http://localhost:8001"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://[::1"},
        headers("same-site"),
        headers("cross-site"),
    ],
)
@pytest.mark.parametrize("path", ["/act", "/new", "/enter"])
def test_a_form_of_another_site_or_port_is_refused(path: str, asked: dict[str, str]) -> None:
    browser = Browser(site())
    browser.post(query="mug")
    form = {"turn": browser.turn, "query": "odd"}
    response = browser.client.post(path, data=form, headers=asked)
    assert response.status_code == 403
    assert "Set-Cookie" not in response.headers
    assert "Step 1" in browser.look()
    assert (
        browser.client.post(path, data=form, headers={"Origin": "http://localhost"}).status_code
        == 303
    )


def test_visitors_are_limited_and_forgotten() -> None:
    now = [0.0]
    visitors = Visitors(
        lambda: WebShopEnv(catalog=CATALOG, split="all"),
        limit=3,
        lifetime=10.0,
        clock=lambda: now[0],
    )
    tokens = [visitors.get(None)[0] for _ in range(3)]
    assert len(set(tokens)) == 3
    visitors.get(tokens[0])
    fourth, _ = visitors.get(None)
    assert len(visitors) == 3
    assert visitors.get(tokens[0])[0] == tokens[0], "the least recent one went"
    assert visitors.get(tokens[1])[0] != tokens[1]
    now[0] = 11.0
    assert visitors.get(fourth)[0] != fourth
    assert len(visitors) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_the_log_has_colours_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, terminal: bool
) -> None:
    """As `eto-gym shop` serves; the request is for a page that there is not."""
    made: list[Any] = []

    def serve_one(*args: Any, **kwargs: Any) -> Any:
        server = make_server(*args, **kwargs)
        made.append(server)
        monkeypatch.setattr(server, "serve_forever", server.handle_request)
        return server

    def ask() -> None:
        while not made:
            time.sleep(0.01)
        with socket.create_connection(made[0].server_address[:2], timeout=20) as asking:
            asking.sendall(b"GET /no-such-page HTTP/1.0\r\n\r\n")
            while asking.recv(4096):
                pass

    make_server = werkzeug.serving.make_server
    monkeypatch.setattr(werkzeug.serving, "make_server", serve_one)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    caplog.set_level("INFO", logger="werkzeug")
    asker = threading.Thread(target=ask)
    asker.start()
    assert main(["shop", "--port", "0"]) == 0
    asker.join()
    (line,) = [r.getMessage() for r in caplog.records if "no-such-page" in r.getMessage()]
    assert "404" in line
    assert ("\x1b[" in line) == terminal


def test_the_catalog_stays_open_while_nobody_is_in_the_shop() -> None:
    catalog = small_catalog()
    app = create_app(catalog=catalog)
    gc.collect()
    assert f"object {id(catalog)}" in shop_module._open_shops
    del app
