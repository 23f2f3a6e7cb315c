"""The panel: choose its tasks, and print the table of the scores that were measured on it.

`python -m eto_gym.benchmarks.panel make v1` wrote the list, once; `... table FILE...` prints the
rows of `benchmarks/panel.md` from reports or submissions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eto_gym.agents.evaluation.card import digest
from eto_gym.agents.evaluation.comparison import load_rows
from eto_gym.agents.evaluation.report import table, words
from eto_gym.agents.evaluation.statistics import mean, success_rate
from eto_gym.files import write_json
from eto_gym.lookup import tasks

PARTS: list[tuple[str, dict[str, Any], int]] = [
    ("ETO/ALFWorld-v0", {"data": "builtin", "split": "test"}, 12),
    ("ETO/WebShop-v0", {"catalog": "builtin", "goals": "human", "split": "test"}, 15),
    (
        "ETO/ScienceWorld-v0",
        {"split_scheme": "official", "simplification": "easy", "split": "test"},
        2,
    ),
]
"""Environment, what is fixed of it, and the tasks of each type that are taken."""

RULE = "per type of task, the first of the test split shuffled with seed 1, in the split's order"


def make(name: str) -> None:
    """Write the list of a panel.

    Raises:
        FileExistsError: There is one of this name, and a panel never changes.
    """
    path = Path(__file__).resolve().parents[1] / f"agents/evaluation/panels/{name}.json"
    if path.exists():
        raise FileExistsError(f"{path} is there, and a panel never changes")
    benchmarks = []
    for env_id, env_kwargs, count in PARTS:
        everything = tasks(env_id, **env_kwargs)
        mixed = everything.shuffle(1)
        types = sorted({task.type for task in everything})
        taken = {task.id for kind in types for task in mixed.filter(type=kind)[:count]}
        chosen = [task_id for task_id in everything.ids if task_id in taken]
        benchmarks.append(
            {"env": env_id, "env_kwargs": env_kwargs, "digest": digest(chosen), "tasks": chosen}
        )
    write_json(path, {"panel": name, "rule": RULE, "benchmarks": benchmarks})


def show(files: list[Path]) -> None:
    """Print a row for every score in some reports or submissions."""
    rows = []
    for row in load_rows(files):
        scored = list(row.scored.values())
        tasks = [task for task, _ in row.scored]
        rows.append(
            [
                *(str(row.card["env"]), row.name, str(len(scored))),
                words(success_rate([r["success"] for r in scored], tasks), 3),
                words(mean([r["reward"] for r in scored], tasks), 3),
                words(mean([r["steps"] for r in scored], tasks), 1),
            ]
        )
    header = ["environment", "score", "tasks", "success", "reward", "steps"]
    print("\n".join(table(header, sorted(rows))))


def main() -> None:
    """Run one of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "table"))
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    if args.what == "make":
        make(args.names[0])
    else:
        show([Path(name) for name in args.names])


if __name__ == "__main__":
    main()
