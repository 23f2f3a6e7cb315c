"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, Self

logger = logging.getLogger(__name__)

FIRST_LINE = 10.0
"""Seconds until the first line; the pause doubles up to `LONGEST_PAUSE`."""

LONGEST_PAUSE = 60.0
"""Seconds between two lines of long work."""

TICK = 1.0
"""Seconds between two pictures of a bar on which nothing gets done."""


class Progress:
    """Tells how far some work is.

    On a terminal this is a bar. Elsewhere (under nohup, in a batch system, in a pipe) it is a line
    at INFO after ten seconds, after twenty more, and so on up to one a minute; what takes less than
    ten seconds says nothing. Both go on while nothing gets done.

    Example:
        >>> with Progress("count", total=3, unit="number") as progress:
        ...     for done in range(3):
        ...         progress.update(done + 1, f"last {done}")
    """

    def __init__(self, label: str | None, *, total: int, done: int = 0, unit: str = "step") -> None:
        """Begin.

        Args:
            label: What the work is; None says nothing.
            total: How much there is to do.
            done: How much was done before.
            unit: What is counted, in the singular.
        """
        self._label, self._total, self._unit = label, total, unit
        self._before = self._done = done
        self._text = ""
        self._told: tuple[int, str] | None = None  # what the last line said
        self._begun = time.monotonic()
        self._bar: Any = None
        self._ended = threading.Event()
        self._speaker: threading.Thread | None = None
        if label is None:
            return
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                desc=label,
                unit=unit,
                dynamic_ncols=True,
                mininterval=0.5,
            )
        tell = self._speak if self._bar is None else self._tick
        self._speaker = threading.Thread(target=tell, daemon=True)
        self._speaker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, text: str | None = None) -> None:
        """Say how much is done by now, and what else there is to tell."""
        step, self._done = done - self._done, done
        if text is not None:
            self._text = text
        if self._bar is not None:
            if text is not None:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step)

    def close(self) -> None:
        """End; long work says how it ended, unless its last line has."""
        spoke = time.monotonic() - self._begun >= FIRST_LINE
        self._ended.set()
        if self._speaker is not None:
            self._speaker.join()
            self._speaker = None
            if self._bar is not None:
                self._bar.close()
            elif spoke and self._told != (self._done, self._text):
                self._say()

    def line(self) -> str:
        """Return what a line of the log says now."""
        seconds = time.monotonic() - self._begun
        new = self._done - self._before
        parts = [f"{self._unit} {self._done:,}/{self._total:,}"]
        if self._text:
            parts.append(self._text)
        if new > 0 and self._done < self._total:
            parts.append(f"{duration(seconds / new * (self._total - self._done))} left")
        else:
            parts.append(duration(seconds))
        return f"{self._label}: {', '.join(parts)}"

    def _tick(self) -> None:
        """Let the bar's clock go on while nothing gets done, so that it does not look dead."""
        while not self._ended.wait(TICK):
            self._bar.refresh()

    def _speak(self) -> None:
        pause = FIRST_LINE
        while not self._ended.wait(pause):
            self._say()
            pause = min(2 * pause, LONGEST_PAUSE)

    def _say(self) -> None:
        self._told = (self._done, self._text)
        logger.info("%s", self.line())


def duration(seconds: float) -> str:
    """Write a time for people.

    Example:
        >>> [duration(s) for s in (4.4, 75, 7260)]
        ['4 s', '1 min 15 s', '2 h 01 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
