"""Pages of the commands, generated from the very parsers that read the command line."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from eto_gym.cli.main import COMMANDS, main
from eto_gym.cli.train import FILES, LOOPS, METHODS

SEE_ALSO = {
    "compare": [("Scores that can be compared", "../scores.md")],
    "data": [("Models", "../models.md")],
    "eval": [("Scores that can be compared", "../scores.md")],
    "rollout": [("Rollouts on a cluster", "../cluster.md")],
    "serve": [("Models behind endpoints", "../serving.md")],
    "export": [("Files for other tools", "../data.md")],
    "serve-env": [("Environments for other programs", "../serving-environments.md")],
    "show": [("Files of demonstrations and pairs", "../data.md")],
    "train": [("Adapters, several devices, and runs that go wrong", "../training-at-scale.md")],
}
"""Command -> what to read beside its page."""

_SAID = re.compile(r" ?\(default: ((?:[^()]|\([^()]*\))*)\)")
"""What the help of an option says of its default."""


class _Found(Exception):
    """A parser was about to read a command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(argv: list[str]) -> argparse.ArgumentParser:
    """Return the parser of a command, as it is when the command would read its options.

    Args:
        argv: The command and what selects the parser below it, such as `["train", "eto"]`.

    Raises:
        LookupError: The command has no parser.
    """

    def stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        raise _Found(self)

    with contextlib.ExitStack() as patched:
        for kind in _parser_classes():
            patched.enter_context(mock.patch.object(kind, "parse_args", stop))
            patched.enter_context(mock.patch.object(kind, "print_help", stop))
        patched.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            main(argv)
        except _Found as found:
            return found.parser
    raise LookupError(f"eto-gym {' '.join(argv)} reads no options")


def _parser_classes() -> list[type]:
    kinds: list[type] = [argparse.ArgumentParser]
    with contextlib.suppress(ImportError):
        kinds.append(importlib.import_module("jsonargparse").ArgumentParser)
    return kinds


@dataclass(frozen=True)
class Page:
    """A generated page.

    Attributes:
        path: Where it stands, below the documentation's folder.
        title: What it is called in the navigation.
        text: Its Markdown.
    """

    path: str
    title: str
    text: str


def pages() -> list[Page]:
    """Return a page for every command, and for every method of `eto-gym train`."""
    made = [_command_page(name) for name in sorted(COMMANDS) if name != "train"]
    made += [_method_page(method) for method in METHODS]
    return [_overview(), *made]


def _overview() -> Page:
    rows = [
        f"| [`eto-gym {name}`]({name}.md) | {summary} |"
        for name, (_, summary) in sorted(COMMANDS.items())
        if name != "train"
    ]
    rows += [
        f"| [`eto-gym train {method}`](train-{method}.md) | {_summary(method)} |"
        for method in METHODS
    ]
    text = "# Commands\n\n`eto-gym COMMAND --help` prints what these pages say.\n\n"
    return Page(
        "commands/index.md",
        "Overview",
        text + "| command | what it does |\n|---|---|\n" + "\n".join(rows) + "\n",
    )


def _summary(method: str) -> str:
    if method in LOOPS:
        return LOOPS[method].help
    return parser_description(parser_of(["train", method]))


def _command_page(name: str) -> Page:
    module, summary = COMMANDS[name]
    parser = parser_of([name])
    about = parser.description if name == "serve" else _told(importlib.import_module(module))
    lines = [f"# eto-gym {name}", "", about or summary, ""]
    lines += [f"See [{title}]({path})." for title, path in SEE_ALSO.get(name, ())]
    lines += ["", *_body(parser, f"eto-gym {name}", 2)]
    return Page(f"commands/{name}.md", f"eto-gym {name}", "\n".join(lines) + "\n")


def _method_page(method: str) -> Page:
    parser = parser_of(["train", method, "--help-all"])
    lines = [f"# eto-gym train {method}", "", parser_description(parser), ""]
    more = "; ".join(f"[{title}]({path})" for title, path in SEE_ALSO["train"])
    lines += [f"See [the method](../methods/{method}.md); {more}.", ""]
    if method in FILES or method in LOOPS:
        lines += [
            "A dotted option sets one setting of a part, `--config FILE` reads many from YAML.",
            "",
        ]
    lines += _body(parser, f"eto-gym train {method}", 2)
    return Page(f"commands/train-{method}.md", f"eto-gym train {method}", "\n".join(lines) + "\n")


def parser_description(parser: argparse.ArgumentParser) -> str:
    """Return what a parser says that its command does."""
    return (parser.description or "").replace("%%", "%")


def _told(module: Any) -> str:
    """Return what a module says about its command, without the name that it begins with."""
    text = (module.__doc__ or "").strip()
    return re.sub(r"\A`eto-gym[^`]*`: (\w)", lambda m: m[1].upper(), text)


def _body(parser: argparse.ArgumentParser, name: str, level: int) -> Iterator[str]:
    yield from ["```text", _usage(parser, name), "```", ""]
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    shown = [
        a
        for a in parser._actions
        if a not in below and a.help != argparse.SUPPRESS and a.dest != "help"
    ]
    for title, kind in (("arguments", False), ("options", True)):
        rows = [a for a in shown if bool(a.option_strings) is kind and _is_setting(a)]
        if rows:
            yield from [f"| {title} | default | what it does |", "|---|---|---|"]
            yield from (_row(action) for action in rows)
            yield ""
    for action in below:
        for word, inner in action.choices.items():
            heading = f"{name} {word}"
            about = parser_description(inner)
            yield from [f"{'#' * level} {heading}", "", about[:1].upper() + about[1:] + ".", ""]
            yield from _body(inner, heading, level + 1)


def _is_setting(action: argparse.Action) -> bool:
    """Leave out what jsonargparse adds for whole groups and for printing its own files."""
    return not any(name.startswith(("--print_", "--print-")) for name in action.option_strings)


def _usage(parser: argparse.ArgumentParser, name: str) -> str:
    """Return one line: what must be given, and that there are options."""
    if parser.usage:
        return str(parser.usage).replace("%(prog)s", name)
    words = [name]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words.append("|".join(action.choices))
        elif not action.option_strings:
            words.append(_positional(action))
        elif action.required:
            words.append(f"{_longest(action)} {_metavar(action)}")
    return " ".join([*words, "[options]"])


def _positional(action: argparse.Action) -> str:
    word = _metavar(action)
    return {"?": f"[{word}]", "*": f"[{word} ...]", "+": f"{word} [...]"}.get(
        str(action.nargs), word
    )


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices)).replace("{true,false}", "true|false")
    return action.dest.rpartition(".")[2].replace("-", "_").upper()


def _longest(action: argparse.Action) -> str:
    return max(action.option_strings, key=len)


def _row(action: argparse.Action) -> str:
    if not action.option_strings:
        name = f"`{_positional(action)}`"
    elif action.nargs == 0:
        name = ", ".join(f"`{option}`" for option in action.option_strings)
    else:
        name = ", ".join(f"`{option} {_values(action)}`" for option in action.option_strings)
    default, text = _default(action), _help(action)
    # What the help says of the default may be more than its value, and is not said twice.
    if said := _SAID.search(text):
        default = said[1] if " " in said[1] else f"`{said[1]}`"
        text = text[: said.start()] + text[said.end() :]
    return f"| {_cell(name)} | {_cell(default)} | {_cell(text)} |"


def _values(action: argparse.Action) -> str:
    word = _metavar(action)
    if word.lower() == action.dest.rpartition(".")[2].lower():
        return "..."  # the option's own name in capitals says nothing
    return f"{word} ..." if action.nargs in ("*", "+") else word


def _default(action: argparse.Action) -> str:
    value = action.default
    if value in (None, argparse.SUPPRESS, "", [], {}) or (action.nargs == 0 and not value):
        return ""
    return f"`{value}`".replace(str(Path.home()), "~")


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return " ".join(text.replace(str(Path.home()), "~").split())


def _cell(text: str) -> str:
    """Escape what would end a cell, or be markup outside code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([|<*_\[])", r"\\\1", p) for p in pieces)
