"""`eto-gym serve-env`: environments for OpenEnv's clients, or for an MCP client."""

from __future__ import annotations

import argparse
import os
import secrets
import sys

from eto_gym.cli.arguments import ENV_HELP, parse_pairs
from eto_gym.cli.listening import listen
from eto_gym.env_server.openenv import MAX_MESSAGE, Server, make_app
from eto_gym.env_server.sessions import Arena
from eto_gym.errors import EtoGymError, require

TOKEN = "ETO_GYM_TOKEN"
"""Environment variable that holds the token; without it one is drawn."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "envs",
        nargs="+",
        metavar="ENV",
        help=f"{ENV_HELP}; the first is the default",
    )
    parser.add_argument(
        "--env-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of gym.make for all of them; repeatable",
    )
    parser.add_argument(
        "--mcp", action="store_true", help="speak MCP over stdin and stdout instead of OpenEnv"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen on (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="port; 0: any free one (default: 8000)",
    )
    parser.add_argument(
        "--max-sessions",
        type=int,
        default=256,
        metavar="N",
        help="open sessions at most (default: 256)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds without a message after which a session is closed (default: 600)",
    )
    parser.add_argument(
        "--no-token",
        action="store_true",
        help=f"let in everybody on this machine; else clients send the token of ${TOKEN}, or the "
        "one that is printed",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if not 0 <= args.port <= 65535:
        raise EtoGymError(f"expected a port in 0..65535, got {args.port}")
    if not args.idle_timeout > 0:
        raise EtoGymError(f"expected --idle-timeout > 0, got {args.idle_timeout:g}")
    if args.no_token and args.host not in _LOOPBACK:
        raise EtoGymError(f"--no-token is for this machine alone, not for --host {args.host}")
    arena = Arena(args.envs, env_kwargs=parse_pairs(args.env_arg), max_sessions=args.max_sessions)
    for env_id in arena.env_ids:
        # Makes it once: an argument that it does not take, or data that is not there, is told to
        # who starts the server and not to each of its clients.
        arena.tasks(env_id, None)
    if args.mcp:
        from eto_gym.env_server.mcp import make_mcp

        make_mcp(arena).run("stdio")
        return 0
    require("websockets", feature="serve-env", extra="openenv")
    uvicorn = require("uvicorn", feature="serve-env", extra="openenv")
    given = os.environ.get(TOKEN, "").strip()
    token = None if args.no_token else given or secrets.token_urlsafe(24)
    server = Server(arena, token=token, idle_timeout=args.idle_timeout)
    config = uvicorn.Config(
        make_app(server),
        host=args.host,
        port=args.port,
        log_level="warning",
        ws_max_size=MAX_MESSAGE,
        timeout_graceful_shutdown=2,
    )
    serving = uvicorn.Server(config)
    listening = listen(args.host, args.port)
    port = listening.getsockname()[1]
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"http://{host}:{port}", flush=True)
    if token is not None and not given:
        print(f"token: {token}", flush=True)
    print("Ctrl-C ends it.", file=sys.stderr)
    try:
        serving.run(sockets=[listening])
    finally:
        server.close()
    return 0
