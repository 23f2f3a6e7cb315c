"""A headless Chromium, and what its user does in the viewer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1200,900",
)


class Reader:
    """A person at the page; every action waits for what it brings."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path | str, address: str = "") -> None:
        self.driver.get("about:blank")
        url = page.as_uri() if isinstance(page, Path) else page
        self.driver.get(f"{url}{address}")
        self.wait(lambda d: d.execute_script("return document.body.dataset.ready"))

    def wait(self, condition: Callable[[Any], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 20).until(condition)

    def find(self, css: str) -> Any:
        return self.wait(lambda d: d.find_element("css selector", css))

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def texts(self, css: str) -> list[str]:
        return [element.text for element in self.all(css)]

    def click(self, css: str) -> None:
        self.find(css).click()

    def keys(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def see(self, text: str, css: str = "main") -> None:
        """Wait until an element's text holds `text`."""
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException

        def shown(driver: Any) -> bool:
            try:
                return any(text in e.text for e in driver.find_elements("css selector", css))
            except StaleElementReferenceException:
                return False

        try:
            self.wait(shown)
        except TimeoutException:
            raise AssertionError(f"{text!r} is not in {self.texts(css)}") from None

    def choose(self, css: str, value: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find(css)).select_by_value(value)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium with its driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=DRIVER)
    )
    yield driver
    driver.quit()


@pytest.fixture
def reader(chromium: Any) -> Iterator[Reader]:
    chromium.set_window_size(1200, 900)
    person = Reader(chromium)
    person.complaints()
    yield person
    assert person.complaints() == []
