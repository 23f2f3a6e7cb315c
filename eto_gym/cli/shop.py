"""`eto-gym shop`: the web shop as a site for people, on this machine only."""

from __future__ import annotations

import argparse

from eto_gym.cli.listening import listen
from eto_gym.errors import EtoGymError, require

HOST = "127.0.0.1"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--catalog",
        default="builtin",
        metavar="FOLDER",
        help="folder that `eto-gym data build webshop` made, or builtin (default: builtin)",
    )
    parser.add_argument(
        "--goals",
        choices=("human", "synthetic"),
        default="human",
        help="whose instructions: people's, or those made from products (default: human)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "test", "all"),
        default="all",
        help="split of the goals (default: all)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=3000,
        metavar="N",
        help="port on 127.0.0.1; 0: any free one (default: 3000)",
    )
    parser.add_argument(
        "--max-steps",
        type=int,
        metavar="N",
        help="longest episode in steps (default: no limit)",
    )
    parser.add_argument(
        "--show-attributes", action="store_true", help="offer every product's attributes"
    )
    parser.add_argument(
        "--reveal", action="store_true", help="show the goal, and the parts of the reward"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if not 0 <= args.port <= 65535:
        raise EtoGymError(f"expected a port in 0..65535, got {args.port}")
    if args.max_steps is not None and args.max_steps < 1:
        raise EtoGymError(f"expected --max-steps >= 1, got {args.max_steps}")
    require("flask", feature="the shop for people", extra="webshop")
    from werkzeug.serving import make_server

    from eto_gym.envs.webshop.site.app import create_app
    from eto_gym.envs.webshop.site.log import LoggedRequest

    app = create_app(
        catalog=args.catalog,
        goals=args.goals,
        split=args.split,
        show_attributes=args.show_attributes,
        max_steps=args.max_steps,
        reveal=args.reveal,
    )
    with listen(HOST, args.port) as listening:
        port = listening.getsockname()[1]
        server = make_server(
            HOST, port, app, threaded=True, fd=listening.fileno(), request_handler=LoggedRequest
        )
    print(f"The shop is open at http://{HOST}:{port}/ - press Ctrl-C to close it.")
    try:
        server.serve_forever()
    finally:
        server.server_close()
    return 0
