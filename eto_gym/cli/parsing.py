"""Command lines: a usage error is one line that says what to type instead."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

_UNKNOWN = re.compile(r"(?:unrecognized arguments:|Unrecognized arguments:)\s*(.*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that does not print the whole usage at an error."""

    def error(self, message: str) -> NoReturn:
        """End the program with one line."""
        self.exit(2, f"{self.prog}: {worded(message, options_of(self))}\n")


def jsonargparse_parser(jsonargparse: Any, **options: Any) -> Any:
    """Return a parser of jsonargparse that words errors the same way.

    Args:
        jsonargparse: The module, which not every command needs.
        options: Arguments of its `ArgumentParser`.
    """

    class Formatter(jsonargparse.DefaultHelpFormatter):  # type: ignore[misc]
        def _expand_help(self, action: Any) -> str:
            """Say nothing about a default that is empty."""
            text = super()._expand_help(action)
            return re.sub(r",? ?\(?default: \)", lambda m: ")" if m[0][0] == "," else "", text)

    class Generated(jsonargparse.ArgumentParser):  # type: ignore[misc]
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            self.exit(2, f"{self.prog}: {worded(message, options_of(self))}\n")
            raise AssertionError("it has ended")

    return Generated(formatter_class=Formatter, **options)


def options_of(parser: Any) -> list[str]:
    """Return the long options of a parser."""
    return [name for name in parser._option_string_actions if name.startswith("--")]


def worded(message: str, options: Iterable[str]) -> str:
    """Return an error of argparse in one line, with what may have been meant."""
    line = " ".join(message.split())
    hint = ""
    if (found := _UNKNOWN.search(line)) and (words := found.group(1).split()):
        wrong = words[0].partition("=")[0].lstrip("-")
        known = {name.lstrip("-"): name for name in options}
        # A dotted option may have been called by its last part.
        close = get_close_matches(wrong, known, n=1, cutoff=0.6) or [
            name for name in known if name.rpartition(".")[2] == wrong
        ]
        hint = f" Did you mean {known[close[0]]}?" if close else ""
    return f"{line}.{hint} (--help lists all options)" if hint else f"{line} (see --help)"
