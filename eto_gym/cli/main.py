"""The `eto-gym` command: finds the command's module, and imports no other."""

from __future__ import annotations

import importlib
import io
import logging
import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

from eto_gym.cli.parsing import Parser
from eto_gym.cli.terminal import printable, reason_of
from eto_gym.errors import EtoGymError, unknown_name
from eto_gym.urls import without_userinfo

COMMANDS = {
    "bench": ("eto_gym.cli.bench", "measure the throughput of rollouts"),
    "compare": ("eto_gym.cli.compare", "compare scores, if their cards say that one may"),
    "completion": ("eto_gym.cli.completion", "print a script that completes commands in a shell"),
    "doctor": ("eto_gym.cli.doctor", "tell what is installed and what works here"),
    "eval": ("eto_gym.cli.eval", "play episodes and report how well a policy does"),
    "rollout": ("eto_gym.cli.rollout", "play episodes and store their trajectories"),
    "serve": ("eto_gym.cli.serve", "serve a model through OpenAI's interface"),
    "serve-env": (
        "eto_gym.cli.exchange.serve_env",
        "serve environments to OpenEnv and MCP clients",
    ),
    "show": ("eto_gym.cli.show", "print an episode in the terminal"),
    "shop": ("eto_gym.cli.shop", "open the web shop as a site for people"),
    "data": ("eto_gym.cli.data", "download or build benchmark data"),
    "export": ("eto_gym.cli.exchange.export", "write trajectories or pairs in another tool's form"),
    "expert": ("eto_gym.cli.rollout", "the same as `rollout --policy expert`"),
    "play": ("eto_gym.cli.play", "play an environment in the terminal"),
    "view": ("eto_gym.cli.view", "write a page to browse episodes, pairs and runs"),
    "merge": ("eto_gym.cli.merge", "write a whole model from an adapter and its base"),
    "train": ("eto_gym.cli.train", "train a policy: the ETO loop and its parts"),
}
"""Name of a command -> (module, one line of help). A module offers `configure(parser)`, which adds
its arguments, and `run(args) -> int`, which does the work and returns the exit status; or
`main(argv) -> int`, which does both."""


DEFAULTS = {"expert": {"policy": "expert"}}
"""Name of a command that is short for another with options -> the defaults of these."""


UNREAD = 141
"""Exit status where nobody reads what a command prints: that of a program that SIGPIPE ends."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error that eto-gym raises on purpose is printed without a traceback.

    Where nobody reads what is printed, it ends in silence.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _print_anything(sys.stdout)
    ended: SystemExit | None = None
    status = UNREAD
    try:
        status = _run(argv)
    except SystemExit as end:  # after help and usage errors
        ended = end
    except OSError as err:  # an error could not be told
        if not isinstance(err, BrokenPipeError):
            raise
        _drop(sys.stderr)
    # Else Python flushes at the exit, and tells in its own way what went wrong.
    if _flush(sys.stderr) is not None:
        status = UNREAD
    if (problem := _flush(sys.stdout)) is not None:
        if isinstance(problem, BrokenPipeError):
            return UNREAD
        print(f"eto-gym: standard output: {problem.strerror or problem}", file=sys.stderr)
        return 2
    if ended is not None:
        raise ended
    return status


def _print_anything(stream: TextIO | None) -> None:
    """Have a stream write what its encoding lacks (a path's odd bytes, say) as escapes."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _flush(stream: TextIO | None) -> OSError | None:
    """Flush a stream; where that cannot be done, return why, and drop what it holds."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as err:
        _drop(stream)
        return err
    return None


def _drop(stream: TextIO | None) -> None:
    """Let what a stream still holds go nowhere."""
    if stream is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _unread() -> bool:
    """Tell whether the standard output is a pipe whose reader is gone."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file
        return False


def _run(argv: Sequence[str]) -> int:
    """Run one command, and tell its errors."""
    name, rest = (argv or ["--help"])[0], argv[1:]
    # The root logger stays as it is: what other libraries tell at INFO is not for the user.
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("eto_gym").setLevel(logging.INFO)
    try:
        if name in {"-h", "--help", "--version"}:
            print(_version() if name == "--version" else _usage())
            return 0
        if name not in COMMANDS:
            print(f"eto-gym: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
            return 2
        module = importlib.import_module(COMMANDS[name][0])
        if hasattr(module, "main"):
            return int(module.main(rest))
        parser = command_parser(name)
        return int(module.run(parser.parse_args(rest)))
    except EtoGymError as err:
        print(f"eto-gym {name}: {printable(without_userinfo(str(err)))}", file=sys.stderr)
        return 2
    except OSError as err:
        if isinstance(err, BrokenPipeError) and _unread():
            return UNREAD
        # A folder that may not be written, a full disk, a file that went away: not our bug.
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        print(f"eto-gym {name}: {reason_of(err)}", file=sys.stderr)
        return 2
    except ValueError as err:
        if "null byte" not in str(err) and "null character" not in str(err):
            raise
        print(f"eto-gym {name}: a path holds the character NUL", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"eto-gym {name}: interrupted", file=sys.stderr)
        return 130


def command_parser(name: str) -> Parser:
    """Return the parser of a command that has `configure`."""
    module_name, summary = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = Parser(prog=f"eto-gym {name}", description=summary)
    parser.renamed = getattr(module, "RENAMED", {})
    module.configure(parser)
    parser.set_defaults(**DEFAULTS.get(name, {}))
    return parser


def _version() -> str:
    from eto_gym import __version__

    return f"eto-gym {__version__}"


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in sorted(COMMANDS.items())]
    return (
        "usage: eto-gym COMMAND [options]\n\ncommands:\n"
        + "\n".join(lines)
        + ("\n\nRun `eto-gym COMMAND --help` for the options of a command.")
    )


if __name__ == "__main__":
    sys.exit(main())
