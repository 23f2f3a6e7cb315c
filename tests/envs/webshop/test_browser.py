"""A person's episode in a real headless Chromium."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from eto_gym.envs.webshop.env import WebShopEnv
from eto_gym.trajectories.record import Trajectory

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium with its driver"),
]

GOAL = 17
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1200,900",
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from werkzeug.serving import make_server

    from eto_gym.envs.webshop.site.app import create_app

    server = make_server("127.0.0.1", 0, create_app(reveal=True), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=DRIVER)
    )
    yield driver
    driver.quit()


class Shopper:
    """What a person does with the pages; every click waits for the next page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def click(self, css: str, text: str | None = None) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        found = self.driver.find_elements("css selector", css)
        element = next(e for e in found if text is None or e.text.strip("✓ ") == text)
        page = self.find("html")
        element.click()
        wait = WebDriverWait(self.driver, 20)
        wait.until(lambda _: self._gone(page))
        wait.until(lambda d: d.execute_script("return document.readyState") == "complete")

    @staticmethod
    def _gone(element: Any) -> bool:
        from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

        try:
            return not element.is_enabled()
        except StaleElementReferenceException:
            return True
        except WebDriverException as err:  # asked in the middle of the change
            if "does not belong to the document" not in str(err) and "inspector" not in str(err):
                raise
            return True

    def facts(self) -> dict[str, str]:
        names = self.driver.find_elements("css selector", "#reveal dt")
        values = self.driver.find_elements("css selector", "#reveal dd")
        return {n.text: v.text for n, v in zip(names, values, strict=True)}


def test_search_open_choose_buy_and_score(browser: Any, address: str) -> None:
    browser.get(address)
    shopper = Shopper(browser)
    shopper.find("#goal").send_keys(str(GOAL))
    shopper.click("#new_episode")
    facts = shopper.facts()
    assert facts["Goal"] == str(GOAL)
    asin, _, title = facts["Product"].partition(": ")
    assert browser.title == "WebShop"

    shopper.find("#search_input").send_keys(title)
    shopper.click("#search_button")
    assert shopper.find(".summary").text.startswith("Page 1 (Total results: ")
    assert len(browser.find_elements("css selector", ".card")) == 10
    shopper.click(".product-link", asin)
    assert shopper.find(".about h1").text == title
    shopper.click(".btn", "Features")
    assert browser.find_elements("css selector", ".reading p")
    shopper.click(".btn", "< Prev")
    wanted = facts["Options"].split(", ")
    for value in wanted:
        shopper.click(".option", value)
    pressed = browser.find_elements("css selector", '.option[aria-pressed="true"]')
    assert [e.text.strip("✓ ") for e in pressed] == wanted
    shopper.click(".buy")

    assert browser.title == "Your score"
    assert shopper.find("#score").text == "1"
    rows = browser.find_elements("css selector", "#parts tbody tr")
    assert [row.text.split()[0] for row in rows] == ["Attributes", "Options", "Price", "Kind"]
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == [], "the strict content policy blocks nothing that the page needs"

    cookies = {c["name"]: c["value"] for c in browser.get_cookies()}
    record = fetch(f"{address}trajectory.json", cookies)
    trajectory = Trajectory.from_json(record)
    env = WebShopEnv(split="all")
    env.reset(options={"task": GOAL})
    rewards = [env.step(step.action or "")[1] for step in trajectory.steps]
    assert sum(rewards) == trajectory.reward == float(shopper.find("#score").text)


def fetch(url: str, cookies: dict[str, str]) -> Any:
    from urllib.request import Request, urlopen

    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    with urlopen(Request(url, headers={"Cookie": header}), timeout=20) as answer:
        return json.load(answer)


def test_pages_fit_a_narrow_screen_and_the_keyboard(browser: Any, address: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.set_window_size(500, 900)
    browser.get(address)
    browser.delete_all_cookies()  # another visitor
    browser.get(address)
    shopper = Shopper(browser)
    wait = WebDriverWait(browser, 20)
    wait.until(lambda d: d.switch_to.active_element.get_attribute("id") == "search_input")
    shopper.find("#search_input").send_keys("mug")
    shopper.click("#search_button")
    for _ in range(2):
        script = "return document.documentElement.scrollWidth <= window.innerWidth"
        assert browser.execute_script(script), "nothing sticks out to the side"
        shopper.click(".product-link")
        shopper.click(".btn", "< Prev")
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('button, input:not([type=hidden]), textarea')]"
        ".filter(e => !(e.textContent.trim() || e.labels?.length || e.ariaLabel)).length"
    )
    assert unnamed == 0
