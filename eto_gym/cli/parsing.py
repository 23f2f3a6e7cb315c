"""Command lines: one spelling of options, and usage errors of one line that say what to type.

Options are written with dashes (`--explore-samples`). The spelling of earlier versions, with
underscores, is understood for this version, with a warning.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

_UNKNOWN = re.compile(r"[Uu]nrecognized arguments:\s*(.*)", re.DOTALL)
_LONG_WORD = 200
_UNKNOWN_KEY = re.compile(r"Option '([^']*)' is not accepted")


class OneSpelling:
    """What parsers have in common: they understand old spellings, and word errors in one line.

    Attributes:
        options: All options, those that the help does not show included.
        renamed: Old option -> the option that does the same now.
        may_be_none: Options whose value may be none, which is written as Python does or as YAML.
    """

    options: tuple[str, ...] = ()
    renamed: Mapping[str, str] = MappingProxyType({})
    may_be_none: Set[str] = frozenset()
    prog: str

    def add_argument(self, *names: Any, **details: Any) -> Any:
        """Add an argument."""
        action = super().add_argument(*names, **details)  # type: ignore[misc]
        self.options = (*self.options, *action.option_strings)
        return action

    def parse_args(self, args: Any = None, namespace: Any = None, **more: Any) -> Any:
        """Parse the words of a command line."""
        words = args
        if words is not None:
            words = with_null(respelled(words, self.options, self.renamed), self.may_be_none)
        return super().parse_args(words, namespace, **more)  # type: ignore[misc]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the program with one line."""
        told = f"{self.prog}: {worded(message, self.options)}\n"
        super().exit(2, told)  # type: ignore[misc]
        raise AssertionError("it has ended")


class Parser(OneSpelling, argparse.ArgumentParser):
    """An `ArgumentParser` with one spelling, whose numbers are those that a machine counts with."""

    def __init__(self, *args: Any, **details: Any) -> None:
        """Create the parser; arguments are those of `argparse.ArgumentParser`."""
        super().__init__(*args, **details)
        self.register("type", int, _whole_number)
        self.register("type", float, _finite_number)


def generated_parser(jsonargparse: Any, **details: Any) -> Any:
    """Return a parser of jsonargparse with one spelling.

    Args:
        jsonargparse: The module, which not every command needs.
        details: Arguments of its `ArgumentParser`.
    """
    kind = type("GeneratedParser", (OneSpelling, jsonargparse.ArgumentParser), {})
    return kind(allow_abbrev=False, **details)


def respelled(words: Sequence[str], known: Iterable[str], renamed: Mapping[str, str]) -> list[str]:
    """Return a command line with the options of earlier versions in today's spelling.

    Args:
        words: The words.
        known: The options.
        renamed: Old option -> the option that does the same now.

    Example:
        >>> respelled(["--eval_split=dev", "--x.a_b", "1"], ["--eval-split", "--x.a-b"], {})
        ['--eval-split=dev', '--x.a-b', '1']
    """
    known = set(known)
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        now = renamed.get(name, name)
        if now == name and name.startswith("--") and name not in known:
            # Below a setting that is a dict, the last part is a key of it and stays as it is.
            head, dot, key = name.rpartition(".")
            now = name.replace("_", "-")
            if now not in known and dot and head.replace("_", "-") in known:
                now = f"{head.replace('_', '-')}.{key}"
            elif now not in known:
                now = name
        if now != name:
            logger.warning("%s is spelled %s now; the next version takes that alone", name, now)
        found.append(f"{now}{equals}{value}")
    return found


def with_null(words: Sequence[str], options: Set[str]) -> list[str]:
    """Return a command line with the value None of some options as YAML writes it.

    Example:
        >>> with_null(["--most", "None", "--least=none", "None"], {"--most", "--least"})
        ['--most', 'null', '--least=null', 'None']
    """
    found = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        if before in options and is_none(word):
            word = "null"
        elif name in options and equals and is_none(value):
            word = f"{name}=null"
        found.append(word)
    return found


def is_none(value: object) -> bool:
    """Whether a value is the word None, in either case."""
    return value in ("None", "none")


def worded(message: str, options: Iterable[str]) -> str:
    """Return an error of argparse in one line, with what may have been meant."""
    line = " ".join(_shortened(word) for word in message.split())
    hint = ""
    if (found := _UNKNOWN.search(line) or _UNKNOWN_KEY.search(line)) and (
        words := found.group(1).split()
    ):
        wrong = words[0].partition("=")[0].lstrip("-").replace("_", "-")
        known = {name.lstrip("-"): name for name in options}
        # A dotted option may have been called by its last part.
        close = get_close_matches(wrong, known, n=1, cutoff=0.6) or [
            name for name in known if name.rpartition(".")[2] == wrong
        ]
        hint = f" Did you mean {known[close[0]]}?" if close else ""
    return f"{line}.{hint} (--help lists all options)" if hint else f"{line} (see --help)"


def _whole_number(text: str) -> int:
    """Read a whole number that a range can have."""
    number = int(text)
    if abs(number) > sys.maxsize:
        raise argparse.ArgumentTypeError(f"expected a number of 64 bits, got {text!r:.80}")
    return number


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r:.80}")
    return number


def _shortened(word: str) -> str:
    """Leave out the middle of a word that nobody would read to its end."""
    return word if len(word) <= _LONG_WORD else f"{word[:40]}...{word[-20:]}"
