"""The viewer's page in a headless Chromium: its size, and the time until it can be used.

`python -m eto_gym.benchmarks.view FILE.jsonl --episodes 10000` repeats the episodes of a file under
other task ids until there are as many.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from eto_gym.trajectories import TrajectoryStore
from eto_gym.view import write_view


def main() -> None:
    """Make the page, open it a few times, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder) / "many.jsonl"
        played = list(TrajectoryStore(args.file).load())
        with TrajectoryStore(many) as store:
            for i in range(args.episodes):
                one = played[i % len(played)]
                store.add(dataclasses.replace(one, task_id=f"{one.task_id}-{i}"))
        begun = time.perf_counter()
        page = write_view([many], Path(folder) / "view.html")
        made = time.perf_counter() - begun
        print(f"{args.episodes} episodes, {page.stat().st_size / 1e6:.1f} MB, made in {made:.1f} s")
        for _ in range(args.repeats):
            print(measure(page))


def measure(page: Path) -> str:
    """Open the page in a new browser, then its list, then an episode."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    # Selenium would ask the network for a driver and a browser otherwise.
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:

        def timed(act: Callable[[], Any], css: str) -> float:
            begun = time.perf_counter()
            act()
            WebDriverWait(driver, 60, 0.02).until(lambda d: d.find_element("css selector", css))
            return time.perf_counter() - begun

        opened = timed(lambda: driver.get(page.as_uri()), "body[data-ready]")
        paint = driver.execute_script(
            "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        )
        listed = timed(driver.find_element("css selector", "#to-episodes").click, ".row")
        shown = timed(driver.find_element("css selector", ".row").click, "#conversation")
    finally:
        driver.quit()
    first = (paint or 0) / 1000
    return (
        f"usable after {opened:.2f} s (first paint {first:.2f} s), list {listed:.2f} s, "
        f"episode {shown:.2f} s"
    )


if __name__ == "__main__":
    main()
