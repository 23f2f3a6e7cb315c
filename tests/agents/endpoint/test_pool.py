"""The balance of requests over servers, without any server."""

from __future__ import annotations

import asyncio
import random

from eto_gym.agents.endpoint.pool import Server, ServerPool


def test_no_moment_for_a_rest_to_end_leaves_a_request_waiting() -> None:
    async def rest_and_take() -> None:
        server = Server("http://a/v1", None)
        pool = ServerPool([server], first_wait=1e-6, max_wait=1e-6, jitter=random.Random(0))
        clock = asyncio.get_running_loop().time
        for _ in range(5000):
            # Rests end while `take` looks, which takes some microseconds.
            server.resting_until = clock() + random.random() * 2e-5
            taken = await asyncio.wait_for(pool.take(), timeout=10.0)
            await pool.give_back(taken)

    asyncio.run(rest_and_take())
