"""Measure players of a model side by side: ours in this process, and servers.

Takes conversations that were recorded and lets each player say their replies again, turn by turn
and `--rows` conversations at a time, going on with the recorded reply, so that all answer the same
prompts. Each number of rows has conversations of its own, so no server finds them in its cache.
One JSON line each: wall seconds, CPU seconds of this process and of all that it started, resident
memory, decoded tokens, and how many replies are those of the first player, which is ours.

    python -m eto_gym.benchmarks.players EPISODES.jsonl --model SFT --dtype bfloat16 --rows 1 16 \
        --server transformers= \
        --server "llama=llama-server -m SFT.gguf --alias {model} --host {host} --port {port} -np 16"
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]

from eto_gym.agents.endpoint import EndpointPolicy
from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.loading import load_model, load_tokenizer
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.model_names import resolve_model
from eto_gym.agents.policy import Conversation, Policy
from eto_gym.agents.serving import ModelServers
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.trajectories import Trajectory, TrajectoryStore


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each player and number of rows.

    Returns:
        1 where a player failed, which a line says; the others went on.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("episodes", help="file of episodes, best those that MODEL played")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="auto", help="of the local player")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME=COMMAND",
        help="another player, as often as wanted; no command: transformers serve",
    )  # fmt: skip
    args = parser.parse_args(argv)
    with TrajectoryStore(args.episodes) as store:
        episodes = store.load()
    if sum(args.rows) > len(episodes):
        parser.error(f"{sum(args.rows)} conversations are needed, {args.episodes} has fewer")

    expected: dict[int, list[str]] = {}
    failed = False
    for named in ("local", *args.server):
        name, _, command = named.partition("=")
        try:
            with _player(name, command, args) as make:
                for rows, chosen in _portions(episodes, args.rows):
                    told, replies = say_again(make(), chosen, turns=args.turns)
                    expected.setdefault(rows, replies)
                    told["same"] = sum(map(str.__eq__, expected[rows], replies))
                    print(json.dumps({"player": name, "rows": rows, **told}), flush=True)
        except EtoGymError as err:
            print(f"error: {name}: {err}", file=sys.stderr)
            failed = True
    return int(failed)


@contextlib.contextmanager
def _player(name: str, command: str, args: argparse.Namespace) -> Iterator[Callable[[], Policy]]:
    """Yield what makes a policy without memories, after one reply that counts nowhere."""
    with contextlib.ExitStack() as stack:
        if name == "local":
            folder = resolve_model(args.model)
            codec = ChatCodec(load_tokenizer(folder))
            model = load_model(folder, dtype=args.dtype, device="cpu")

            def make() -> Policy:
                return LocalPolicy(model, codec, max_new_tokens=args.max_new_tokens)
        else:
            servers = stack.enter_context(ModelServers(args.model, command=command or None))

            def make() -> Policy:
                policy = EndpointPolicy(
                    servers.base_urls, servers.model, max_new_tokens=args.max_new_tokens
                )
                stack.callback(policy.close)
                return policy

        make().act([Conversation("warm", [Message("user", "Hello.")])])
        yield make


def _portions(
    episodes: Sequence[Trajectory], counts: Sequence[int]
) -> Iterator[tuple[int, Sequence[Trajectory]]]:
    begin = 0
    for count in counts:
        yield count, episodes[begin : begin + count]
        begin += count


def say_again(
    policy: Policy, episodes: Sequence[Trajectory], *, turns: int
) -> tuple[dict[str, Any], list[str]]:
    """Let a policy say the first `turns` replies of these episodes again.

    Returns:
        "replies" and "decoded" (tokens), "cpu_s" and "wall_s", "resident_mb" at the end, of this
        process and all below it; and the replies, turn by turn. A reply that failed is "".

    Raises:
        EtoGymError: A conversation could not be answered.
    """
    said: list[str] = []
    decoded = 0
    cpu, wall = cpu_seconds(), time.perf_counter()
    for turn in range(turns):
        asked = []
        for i, episode in enumerate(episodes):
            ends = [j for j, message in enumerate(episode.messages) if message.train]
            if turn < len(ends):
                asked.append(Conversation(str(i), episode.messages[: ends[turn]]))
        if not asked:
            break
        for reply in policy.act(asked):
            if reply.error is not None:
                raise EtoGymError(f"no reply in turn {turn}: {reply.error}")
            said.append(reply.text)
            decoded += reply.usage["decoded_tokens"]
    told = {
        "replies": len(said),
        "decoded": decoded,
        "cpu_s": round(cpu_seconds() - cpu, 2),
        "wall_s": round(time.perf_counter() - wall, 2),
        "resident_mb": round(sum(p.memory_info().rss for p in _processes()) / 1e6),
    }
    return told, said


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all below it that live, user and system."""
    times = [process.cpu_times() for process in _processes()]
    return float(sum(spent.user + spent.system for spent in times))


def _processes() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


if __name__ == "__main__":
    sys.exit(main())
