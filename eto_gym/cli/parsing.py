"""Command lines: a usage error is one line that says what to type instead."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from eto_gym.errors import DataError
from eto_gym.text_files import read_text

_UNKNOWN = re.compile(r"[Uu]nrecognized arguments:\s*(.*)", re.DOTALL)
_UNKNOWN_KEY = re.compile(r"Option '([^']*)' is not accepted")


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
        def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
            """Read settings in any encoding, and name the file where it holds none."""
            content = read_settings(Path(path))
            return self.parse_string(content, Path(path).name, *args, **kwargs)

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            self.exit(2, f"{self.prog}: {worded(message, options_of(self))}\n")
            raise AssertionError("it has ended")

    return Generated(formatter_class=Formatter, **options)


def read_settings(path: Path) -> str:
    """Return the text of a YAML or JSON file, once it is known to hold a mapping.

    Raises:
        DataError: It does not, or cannot be read.
    """
    import yaml

    text = read_text(path)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(err, "problem", None) or " ".join(str(err).split())[:200]
        raise DataError(f"{path}{line}: {problem}") from err
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{path}: expected settings as `name: value`, got {value!r:.60}")
    return text


def options_of(parser: Any) -> list[str]:
    """Return the long options of a parser."""
    return [name for name in parser._option_string_actions if name.startswith("--")]


def worded(message: str, options: Iterable[str]) -> str:
    """Return an error of argparse in one line, with what may have been meant."""
    line = " ".join(message.split())
    hint = ""
    if (found := _UNKNOWN.search(line) or _UNKNOWN_KEY.search(line)) and (
        words := found.group(1).split()
    ):
        wrong = words[0].partition("=")[0].lstrip("-")
        known = {name.lstrip("-"): name for name in options}
        # A dotted option may have been called by its last part.
        close = get_close_matches(wrong, known, n=1, cutoff=0.6) or [
            name for name in known if name.rpartition(".")[2] == wrong
        ]
        hint = f" Did you mean {known[close[0]]}?" if close else ""
    return f"{line}.{hint} (--help lists all options)" if hint else f"{line} (see --help)"
