"""Pictures of the viewer, taken of a run's page by a headless Chromium.

`PYTHONPATH=docs python -m sitegen.screenshots runs/RUN/report.html` writes `docs/images/*.png`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable as ready
from selenium.webdriver.support.ui import WebDriverWait

IMAGES = Path(__file__).resolve().parents[1] / "images"

VIEWS = {
    "run": ("", []),
    "episodes": ("#/episodes?result=failure", []),
    "episode": ("#/episodes?result=failure", [".row"]),
    "pair": ("#/pair/1", []),
}
"""Name of a picture -> the address in the page, and what is clicked there."""


def take(page: Path) -> None:
    """Write the pictures of one page."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,760"):
        options.add_argument(flag)
    # Selenium would ask the network for a driver and a browser otherwise.
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    IMAGES.mkdir(exist_ok=True)
    try:
        for name, (address, clicks) in VIEWS.items():
            driver.get("about:blank")
            driver.get(page.resolve().as_uri() + address)
            WebDriverWait(driver, 60).until(
                lambda d: d.execute_script("return document.body.dataset.ready")
            )
            for css in clicks:
                WebDriverWait(driver, 60).until(ready((By.CSS_SELECTOR, css))).click()
            WebDriverWait(driver, 60).until(lambda d: d.find_element(By.CSS_SELECTOR, "main h1"))
            (IMAGES / f"{name}.png").write_bytes(driver.get_screenshot_as_png())
    finally:
        driver.quit()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
