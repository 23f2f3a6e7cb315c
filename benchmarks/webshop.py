"""Speed and memory of WebShop: steps per CPU-second, load time, memory of environments and workers.

    python -m eto_gym.benchmarks.webshop measure [LABEL=INDEX_FOLDER ...]
    python -m eto_gym.benchmarks.webshop tile --products FILE --attributes FILE --goals FILE
        --count N --out DIR

`measure` prints Markdown tables for the built-in catalog and the given index folders. Every search
is a different one, so that no result comes from a cache. Memory is what the process holds alone
(private dirty pages, Linux only): pages of index files are shared and can be dropped.

`tile` repeats official files under new ids until there are `N` products, each with a word of its
own in its name, so that the vocabulary grows too; the human goals stay with the first copy of their
product. Build an index from its output with `eto-gym data build webshop`.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np

from eto_gym.envs.webshop import WebShopEnv
from eto_gym.envs.webshop.catalog.records import iter_array, iter_object
from eto_gym.envs.webshop.search import kernels
from eto_gym.envs.webshop.search.search import COMPILE_FROM
from eto_gym.envs.webshop.store import read_manifest

ENVIRONMENTS = (1, 16, 64)
WORKERS = 4


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    measuring = actions.add_parser("measure")
    measuring.add_argument("indexes", nargs="*", metavar="LABEL=INDEX_FOLDER")
    measuring.add_argument("--episodes", type=int, default=300)
    tiling = actions.add_parser("tile")
    tiling.add_argument("--products", type=Path, required=True)
    tiling.add_argument("--attributes", type=Path, required=True)
    tiling.add_argument("--goals", type=Path, required=True)
    tiling.add_argument("--count", type=int, required=True)
    tiling.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.action == "tile":
        tile(args.products, args.attributes, args.goals, args.count, args.out)
        return
    catalogs = {"built-in": "builtin"}
    catalogs.update(item.split("=", 1) for item in args.indexes)
    report(catalogs, args.episodes)


# --- measuring ----------------------------------------------------------------------------------


def report(catalogs: dict[str, str], episodes: int) -> None:
    """Measure every catalog in fresh processes and print the tables."""
    speeds, loads, memories = {}, {}, {}
    for label, catalog in catalogs.items():
        speeds[label] = _in_new_process(speed, catalog, episodes)
        rounds = [_in_new_process(load, catalog) for _ in range(3)]
        loads[label] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        memories[label] = _in_new_process(memory, catalog)
        memories[label][f"each of {WORKERS} workers (MB)"] = _workers(catalog)
    _table("Steps per CPU-second", speeds, "{:,.0f}")
    _table("Opening the catalog (median of 3 processes)", loads, "{:,.3g}")
    _table("Private memory beyond interpreter and libraries", memories, "{:,.3g}")


def speed(catalog: str, episodes: int) -> dict[str, float]:
    """Return steps per CPU-second by kind of step, over scripted episodes."""
    env = _make(catalog)
    shop = cast(WebShopEnv, env.unwrapped)
    seconds: dict[str, float] = defaultdict(float)
    steps: dict[str, int] = defaultdict(int)

    def step(kind: str, action: str) -> str:
        start = time.process_time()
        observation, *_ = env.step(action)
        seconds[kind] += time.process_time() - start
        steps[kind] += 1
        return str(observation)

    env.reset(options={"task": 0})
    env.step("search[warm up]")
    for episode in range(episodes):
        start = time.process_time()
        observation, _ = env.reset(options={"task": episode % len(shop.task_set)})
        seconds["reset"] += time.process_time() - start
        steps["reset"] += 1
        words = str(observation).split(" [SEP] ")[2]
        # One more word makes the query new when there are fewer tasks than episodes.
        results = step("search", f"search[{words} {episode // len(shop.task_set) or ''}]")
        step("page", "click[next >]")
        step("page", "click[< prev]")
        asins = results.split(" [SEP] ")[5::3]
        if not asins:
            continue
        step("open", f"click[{asins[0]}]")
        step("sub-page", "click[features]")
        step("sub-page", "click[< prev]")
        product = shop.session.product
        for values in list(product.options.values())[:3] if product else []:
            step("option", f"click[{values[0]}]")
        step("buy", "click[buy now]")
    rates = {kind: steps[kind] / seconds[kind] for kind in steps}
    kinds = [kind for kind in steps if kind != "reset"]
    rates["all steps"] = sum(steps[k] for k in kinds) / sum(seconds[k] for k in kinds)
    return rates


def load(catalog: str) -> dict[str, float]:
    """Return the seconds until the first observation, and of the first search after it."""
    _warm_libraries(catalog)
    before = private_bytes()
    start, cpu = time.perf_counter(), time.process_time()
    env = _make(catalog)
    env.reset(options={"task": 0})
    opened, cpu_opened = time.perf_counter(), time.process_time()
    env.step("search[red dress]")
    return {
        "make and reset (s)": opened - start,
        "of which CPU (s)": cpu_opened - cpu,
        "first search (s)": time.perf_counter() - opened,
        "private memory (MB)": (private_bytes() - before) / 1e6,
    }


def memory(catalog: str) -> dict[str, float]:
    """Return the private memory of several environments, each in the middle of an episode."""
    _warm_libraries(catalog)
    start = private_bytes()
    environments: list[gym.Env[str, str]] = []
    found = {}
    first = 0
    for wanted in ENVIRONMENTS:
        while len(environments) < wanted:
            env = _make(catalog)
            env.reset(options={"task": len(environments)})
            env.step("search[red dress]")
            environments.append(env)
        gc.collect()
        used = private_bytes() - start
        found[f"{wanted} environments (MB)"] = used / 1e6
        if wanted == 1:
            first = used
    found["each further environment (kB)"] = (used - first) / (ENVIRONMENTS[-1] - 1) / 1e3
    return found


def worker(catalog: str, barrier: Any, results: Any) -> None:
    """Play some episodes and report the private memory, while the other workers live too."""
    _warm_libraries(catalog)
    start = private_bytes()
    env = _make(catalog)
    for task in range(20):
        observation, _ = env.reset(options={"task": task})
        found, *_ = env.step(f"search[{observation.split(' [SEP] ')[2]}]")
        for asin in found.split(" [SEP] ")[5::3][:1]:
            env.step(f"click[{asin}]")
            env.step("click[buy now]")
    gc.collect()
    barrier.wait()
    results.put((private_bytes() - start) / 1e6)
    barrier.wait()


def _workers(catalog: str) -> float:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(WORKERS), context.SimpleQueue()
    processes = [
        context.Process(target=worker, args=(catalog, barrier, results)) for _ in range(WORKERS)
    ]
    for process in processes:
        process.start()
    found: list[float] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return statistics.mean(found)


def private_bytes() -> int:
    """Return the memory that only this process holds and that no file backs."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def _make(catalog: str) -> gym.Env[str, str]:
    return gym.make("ETO/WebShop-v0", catalog=catalog, split="all", max_episode_steps=1000)


def _warm_libraries(catalog: str) -> None:
    """Import what the environment will import, so that it is not counted as its memory."""
    large = catalog != "builtin" and read_manifest(Path(catalog))["products"] >= COMPILE_FROM
    if large and kernels.numba_is_installed():
        arrays = np.zeros(2), np.zeros(1, np.int32), np.ones(1, np.float32), np.float32(1)
        for loop in kernels.compiled_kernels():
            loop(*arrays)
    gc.collect()


def _in_new_process(function: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def _table(title: str, columns: dict[str, dict[str, float]], form: str) -> None:
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for row in rows:
        cells = [form.format(column[row]) if row in column else "-" for column in columns.values()]
        print(f"| {row} | {' | '.join(cells)} |")


# --- tiling -------------------------------------------------------------------------------------


def tile(products: Path, attributes: Path, goals: Path, wanted: int, out: Path) -> None:
    """Write product, attribute and goal files with `wanted` products."""
    entries, human = dict(iter_object(attributes)), dict(iter_object(goals))
    moved = {}
    out.mkdir(parents=True, exist_ok=True)
    with (
        (out / "items_shuffle.json").open("w", encoding="utf-8") as product_file,
        (out / "items_ins_v2.json").open("w", encoding="utf-8") as attribute_file,
    ):
        product_file.write("[")
        attribute_file.write("{")
        for number, record in enumerate(islice(_repeated(products), wanted)):
            asin = f"T{number:09}"
            entry = json.dumps({asin: entries.get(record["asin"], {})})[1:-1]
            if record["asin"] in human:
                moved[asin] = [goal | {"asin": asin} for goal in human.pop(record["asin"])]
            record |= {"asin": asin, "name": f"{record['name']} Model {_code(number)}"}
            product_file.write((",\n" if number else "") + json.dumps(record))
            attribute_file.write((",\n" if number else "") + entry)
        product_file.write("]")
        attribute_file.write("}")
    (out / "items_human_ins.json").write_text(json.dumps(moved), "utf-8")


def _repeated(products: Path) -> Iterator[dict[str, Any]]:
    for _ in count():
        yield from iter_array(products)


def _code(number: int) -> str:
    """Return a made-up model number that no other product has."""
    return "".join("bcdfghjklmnpqrstvwxz"[number // 20**i % 20] for i in range(5)) + "x"


if __name__ == "__main__":
    main()
