"""Steps per second over OpenEnv's WebSocket, beside the same steps in process.

    python -m eto_gym.benchmarks.serving.env_server alfworld --sessions 64 --opened 1000

The server is a process of its own, `eto-gym serve-env`; the client holds all sessions in one event
loop. Play is random among the admissible actions, with the same seed in both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from eto_gym.registration import make_text_env, resolve_env_id


def main() -> None:
    """Measure, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("env")
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3000, help="steps over all sessions")
    parser.add_argument("--opened", type=int, default=1000, help="sessions opened and dropped")
    args = parser.parse_args()
    env_id = resolve_env_id(args.env)
    steps, cpu = in_process(env_id, args.steps)
    print(f"{env_id} in process: {args.steps / steps:,.0f} steps/s ({cpu:.2f} CPU s)")
    command = [sys.executable, "-m", "eto_gym.cli.main", "serve-env", env_id, "--port", "0"]
    server = subprocess.Popen(
        [*command, "--no-token", "--max-sessions", str(args.sessions)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip().replace("http", "ws") + "/ws"
        before = cpu_of(server.pid)
        seconds = asyncio.run(over_the_wire(url, args.sessions, args.steps))
        used = cpu_of(server.pid) - before
        rate = args.steps / seconds
        print(f"{env_id}, {args.sessions} sessions: {rate:,.0f} steps/s (server {used:.2f} CPU s)")
        asyncio.run(open_and_drop(url, 50))  # what is made once
        size = resident(server.pid)
        asyncio.run(open_and_drop(url, args.opened))
        grown = resident(server.pid) - size
        left = asyncio.run(still_open(url, args.sessions))
        print(f"{args.opened} sessions opened and dropped: {left} left, {grown / 1024:.1f} MB more")
    finally:
        server.terminate()
        server.wait()


def in_process(env_id: str, steps: int) -> tuple[float, float]:
    """Return wall and CPU seconds of so many steps in one environment."""
    env, chance = make_text_env(env_id, admissible_actions=True), random.Random(0)
    _, info = env.reset(seed=0)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        actions = info["admissible_actions"]
        action = chance.choice(actions) if actions else "look"
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            _, info = env.reset()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    env.close()
    return spent


async def over_the_wire(url: str, sessions: int, steps: int) -> float:
    """Return the seconds of so many steps over all sessions, which were reset before."""
    from websockets.asyncio.client import connect

    sockets = [await connect(url, proxy=None) for _ in range(sessions)]
    told = [await ask(s, "reset", seed=i, admissible_actions=True) for i, s in enumerate(sockets)]
    each = steps // sessions

    async def play(socket: Any, last: dict[str, Any], chance: random.Random) -> None:
        for _ in range(each):
            actions = last["observation"]["admissible_actions"]
            last = await ask(socket, "step", action=chance.choice(actions) if actions else "look")
            if last["done"]:
                last = await ask(socket, "reset", admissible_actions=True)

    began = time.perf_counter()
    plays = zip(sockets, told, strict=True)
    await asyncio.gather(*(play(s, t, random.Random(i)) for i, (s, t) in enumerate(plays)))
    seconds = time.perf_counter() - began
    for socket in sockets:
        await socket.close()
    return seconds * steps / (each * sessions)


async def open_and_drop(url: str, count: int) -> None:
    """Open sessions, begin an episode in each, and break the connection without a word."""
    from websockets.asyncio.client import connect

    for number in range(count):
        socket = await connect(url, proxy=None)
        await ask(socket, "reset", seed=number)
        socket.transport.abort()


async def still_open(url: str, limit: int) -> int:
    """Return how many sessions the server still counts: those that a full house lacks."""
    from websockets.asyncio.client import connect

    await asyncio.sleep(1.0)
    sockets: list[Any] = []
    try:
        for _ in range(limit):
            sockets.append(await connect(url, proxy=None))
            await sockets[-1].send(json.dumps({"type": "state"}))
            if json.loads(await sockets[-1].recv())["type"] == "error":
                return limit - len(sockets) + 1
        return 0
    finally:
        for socket in sockets:
            await socket.close()


async def ask(socket: Any, kind: str, **data: Any) -> dict[str, Any]:
    """Send a message, and return the data of its answer."""
    await socket.send(json.dumps({"type": kind, "data": data}))
    answer = json.loads(await socket.recv())
    if answer["type"] == "error":
        raise RuntimeError(answer["data"])
    found: dict[str, Any] = answer["data"]
    return found


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return the resident memory of a process in kB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
