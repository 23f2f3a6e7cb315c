"""`eto-gym view PATH...`: trajectories, pairs and runs as a page for a browser."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from eto_gym.errors import EtoGymError
from eto_gym.view import write_view


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="file of trajectories or pairs, run folder, or a folder with such files",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE",
        help="the page, as HTML (default: view.html in the first folder, or beside the first file)",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="serve the page on this machine, and reload it while a run goes on; writes no file",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8732,
        metavar="N",
        help="port of --serve; 0: any free one (default: 8732)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve it until it is interrupted."""
    if args.serve:
        if args.out is not None:
            raise EtoGymError("--serve writes no file: leave out --out")
        if not 0 <= args.port <= 65535:
            raise EtoGymError(f"expected a port in 0..65535, got {args.port}")
        from eto_gym.view.serve import make_server

        with make_server(args.paths, port=args.port) as server:
            print(f"http://127.0.0.1:{server.server_port}/   (Ctrl-C ends it)", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
        return 0
    first = args.paths[0]
    out = args.out or (first / "view.html" if first.is_dir() else first.with_suffix(".html"))
    print(f"{write_view(args.paths, out).resolve()}")
    return 0
