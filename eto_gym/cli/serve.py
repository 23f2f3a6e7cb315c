"""`eto-gym serve`: a model behind OpenAI-compatible servers on this machine."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from eto_gym.agents.serving.servers import ModelServers
from eto_gym.cli.arguments import parse_pairs
from eto_gym.cli.parsing import Parser

_DESCRIPTION = """\
Start processes that serve a model through OpenAI's chat completions, print their base URLs, and the
command that plays with them, when all of them answer, and stop them on Ctrl-C. They end with this
process, however it ends. Anything after -- goes to the
server: eto-gym serve MODEL -- --dtype bfloat16"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="folder, GGUF file, smollm2, or hub name")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes, each with the model (default: 1)",
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="port of the first worker, the others take the next ones (default: free ports)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen on; the servers let everyone in who reaches them "
        "(default: 127.0.0.1)",
    )
    parser.add_argument(
        "--command",
        metavar="TEXT",
        help="what to run instead of `transformers serve`, such as "
        '"vllm serve {model} --host {host} --port {port}"',
    )
    parser.add_argument(
        "--gpus",
        nargs="+",
        action="extend",
        metavar="LIST",
        help="CUDA_VISIBLE_DEVICES of the workers, in turn: --gpus 0 1, or --gpus 0,1 2,3; "
        "repeatable",
    )
    parser.add_argument(
        "--startup-timeout",
        type=float,
        default=900.0,
        metavar="S",
        help="seconds until all must answer (default: 900)",
    )
    parser.add_argument(
        "--log-folder", metavar="FOLDER", help="keep the servers' output here (default: nowhere)"
    )
    parser.add_argument(
        "--chat-template",
        default="",
        metavar="FILE",
        help="chat template (Jinja) in place of the model's own, as chat_template=FILE "
        "for --policy-arg of `eval`",
    )
    parser.add_argument(
        "--template-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="variable of the chat template, such as enable_thinking=false; repeatable",
    )


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted; the exit status is 1 where every server died for good."""
    own, dashes, servers = _split(argv)
    parser = Parser(
        prog="eto-gym serve",
        description=_DESCRIPTION,
        usage="%(prog)s MODEL [options] [-- ARGUMENT ...]",
    )
    configure(parser)
    args = parser.parse_args(own)
    if dashes and not servers:
        parser.error("expected arguments for the server after --")
    return run(args, arguments=servers)


def run(args: argparse.Namespace, *, arguments: Sequence[str] = ()) -> int:
    """Serve until interrupted."""
    servers = ModelServers(
        args.model,
        workers=args.workers,
        host=args.host,
        port=args.port,
        command=args.command,
        arguments=arguments,
        gpus=args.gpus,
        startup_timeout=args.startup_timeout,
        log_folder=args.log_folder,
        chat_template=args.chat_template,
        template_kwargs=parse_pairs(args.template_arg),
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with servers:
        print(f"model: {servers.model}")
        for url in servers.base_urls:
            print(url, flush=True)
        ask = ["--policy", "endpoint:" + ",".join(servers.base_urls)]
        ask += ["--policy-arg", f"model={servers.model}"]
        print(f"eto-gym eval alfworld {shlex.join(ask)}", file=sys.stderr)
        print("Ctrl-C stops the servers.", file=sys.stderr)
        servers.wait()
    return 1


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    words = list(argv)
    if "--" not in words:
        return words, False, []
    cut = words.index("--")
    return words[:cut], True, words[cut + 1 :]


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
