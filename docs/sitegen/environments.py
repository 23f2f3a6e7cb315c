"""Pages of the environments: contract, card, splits, figures, and an episode of the expert."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import gymnasium as gym

import eto_gym  # noqa: F401  registers the environments
from eto_gym.registration import env_class
from sitegen.commands import Page

FIGURES = Path("benchmarks/results.md")


class Shown:
    """What a page shows of an environment.

    Attributes:
        env_id: Its id.
        splits: The splits of its built-in data.
        task: A short task of the training split, whose episode is shown.
    """

    def __init__(self, env_id: str, splits: tuple[str, ...], task: str | int) -> None:
        self.env_id = env_id
        self.splits = splits
        self.task = task


ENVIRONMENTS = (
    Shown("ETO/ALFWorld-v0", ("train", "dev", "test"), 0),
    Shown("ETO/WebShop-v0", ("train", "test"), 0),
    Shown("ETO/ScienceWorld-v0", ("train", "dev", "test"), "find-animal/0"),
)


def pages(root: Path) -> list[Page]:
    """Return a page for every environment.

    Args:
        root: Folder of the project, where the figures are.
    """
    figures = (root / FIGURES).read_text(encoding="utf-8")
    return [_page(shown, figures) for shown in ENVIRONMENTS]


def _page(shown: Shown, figures: str) -> Page:
    kind = env_class(shown.env_id)
    name = shown.env_id.rpartition("/")[2].partition("-v")[0]
    path = f"{kind.__module__}.{kind.__qualname__}"
    with gym.make(shown.env_id, split=shown.splits[0]) as env:
        card = env.unwrapped.card()  # type: ignore[attr-defined]
        episode = play_episode(env, shown.task)
    text = "\n".join(
        [
            f"# {name}",
            "",
            f"`{shown.env_id}`: {(kind.__doc__ or '').strip().splitlines()[0]}",
            "",
            f"::: {path}",
            "    options:",
            "      heading_level: 2",
            "      show_root_toc_entry: true",
            "      members: []",
            "      show_bases: false",
            "      filters: []",
            "      merge_init_into_class: true",
            "",
            "## Splits",
            "",
            "Of the data that needs no download:",
            "",
            *splits_table(shown),
            "",
            "## Card",
            "",
            "What a score depends on, as `env.unwrapped.card()` tells it "
            "([scores that can be compared](../scores.md)):",
            "",
            "```json",
            json.dumps(card, indent=2, default=str),
            "```",
            "",
            "## Figures",
            "",
            section(figures, name),
            "",
            "## An episode",
            "",
            episode,
        ]
    )
    return Page(f"environments/{name.lower()}.md", name, text + "\n")


def splits_table(shown: Shown) -> list[str]:
    """Count the tasks of every split by type."""
    counts: dict[str, Counter[str]] = {}
    for split in shown.splits:
        with gym.make(shown.env_id, split=split) as env:
            counts[split] = Counter(task.type for task in env.unwrapped.task_set)  # type: ignore[attr-defined]
    types = sorted(set().union(*counts.values()))
    lines = ["| type of task | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for kind in types:
        lines.append(f"| {kind} | " + " | ".join(f"{c[kind]:,}" for c in counts.values()) + " |")
    total = " | ".join(f"**{sum(c.values()):,}**" for c in counts.values())
    return [*lines, f"| **all** | {total} |"]


def play_episode(env: gym.Env[str, str], task: str | int) -> str:
    """Let the expert play a task, and write what it read and did.

    Raises:
        RuntimeError: The expert did not succeed.
    """
    observation, info = env.reset(seed=0, options={"task": task})
    expert = env.unwrapped.make_expert()  # type: ignore[attr-defined]
    lines = [
        f"The expert on task `{info['task_id']}`. Its replies have a thought and an action.",
        "",
        "```text",
    ]
    lines.append(_plain(observation))
    done, total = False, 0.0
    while not done:
        reply = expert.act(observation, info)
        if reply is None:
            break
        observation, reward, terminated, truncated, info = env.step(reply.action)
        done, total = terminated or truncated, total + float(reward)
        earned = f"   [reward {float(reward):g}]" if reward else ""
        lines += ["", _plain(f"{reply}{earned}"), "", _plain(observation)]
    if not info["success"]:
        raise RuntimeError(f"the expert did not solve {info['task_id']}: {info}")
    return "\n".join([*lines, "```", "", f"Sum of rewards: {total:g}."])


def _plain(text: str) -> str:
    return text.strip().replace("```", "'''")


def section(text: str, title: str) -> str:
    """Return a section of the second level without its heading, its own headings one deeper.

    Raises:
        LookupError: There is no such section.
    """
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"{FIGURES} has no section {title!r}")
    return found[1].strip()
