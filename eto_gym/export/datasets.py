"""A folder that `datasets.load_dataset` opens: Parquet files of one schema, and a card.

What differs from benchmark to benchmark (the environment's card, token counts, facts of replies)
is stored as JSON text, so that files of several benchmarks have the same columns.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_gym.errors import DataError, require
from eto_gym.export.names import plain_names
from eto_gym.files import strict_json, write_text
from eto_gym.trajectories import PreferencePair, Trajectory

_AS_TEXT = ("env", "usage", "facts", "tokens", "player")
_ROWS = 1000
"""Rows of a group in a file: what a reader holds at a time."""


def write_trajectories(episodes: Sequence[Trajectory], folder: Path) -> None:
    """Write trajectories as a folder of the Hugging Face hub.

    Args:
        episodes: Of any benchmarks.
        folder: Is made; it holds `README.md` and a file per benchmark in `data/`.

    Raises:
        DataError: An episode holds what Parquet cannot.
    """
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for episode in episodes:
        groups[str(episode.env.get("benchmark", "other")).lower()].append(episode)
    names = plain_names(groups, taken=["default"])  # the configuration of all files
    files = {names[benchmark]: items for benchmark, items in sorted(groups.items())}
    schema = _trajectory_schema()
    for name, items in files.items():
        _write(map(trajectory_row, items), schema, folder / "data" / f"{name}.parquet")
    counts = {
        name: f"{len(items)} episodes, {sum(e.success for e in items)} with success"
        for name, items in files.items()
    }
    _write_card(folder, "Trajectories", counts, _TRAJECTORY_COLUMNS)


def write_pairs(pairs: Sequence[PreferencePair], folder: Path) -> None:
    """Write preference pairs as a folder of the Hugging Face hub.

    Raises:
        DataError: A pair holds what Parquet cannot.
    """
    _write(map(pair_row, pairs), _pair_schema(), folder / "data" / "pairs.parquet")
    _write_card(folder, "Preference pairs", {"pairs": f"{len(pairs)} pairs"}, _PAIR_COLUMNS)


def trajectory_row(episode: Trajectory) -> dict[str, Any]:
    """Return a trajectory as a row."""
    lists = ("reasoning", "states", "facts", "tokens")
    row = {**{name: [] for name in lists}, "history": "full", "player": {}, **episode.to_json()}
    return {**row, **{name: strict_json(row[name]) for name in _AS_TEXT}}


def trajectory_of(row: Mapping[str, Any]) -> Trajectory:
    """Read a row back.

    Raises:
        DataError: It is none.
    """
    row = {"tokens": "[]", "player": "{}", **row}  # older files have no such columns
    try:
        values = {**row, **{name: json.loads(row[name]) for name in _AS_TEXT}}
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        raise DataError(f"not a row of trajectories: {err}") from err
    return Trajectory.from_json(values)


def pair_row(pair: PreferencePair) -> dict[str, Any]:
    """Return a pair as a row: the prompt, both continuations, and what is known of it as JSON."""

    def turns(messages: Iterable[Any]) -> list[dict[str, Any]]:
        return [{"role": m.role, "content": m.content, "train": m.train} for m in messages]

    return {
        "task_id": pair.task_id,
        "prompt": turns(pair.prompt),
        "chosen": turns(pair.chosen),
        "rejected": turns(pair.rejected),
        "info": strict_json(pair.info),
        "history": pair.history,
        "head": pair.head,
        "chosen_states": list(pair.chosen_states),
        "rejected_states": list(pair.rejected_states),
    }


def _write(rows: Iterable[dict[str, Any]], schema: Any, path: Path) -> None:
    require("pyarrow", feature="--to hf", extra="train")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    held: list[dict[str, Any]] = []
    with parquet.ParquetWriter(path, schema) as writer:
        for row in rows:
            held.append(row)
            if len(held) == _ROWS:
                writer.write_table(_table(held, schema))
                held.clear()
        writer.write_table(_table(held, schema))


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.Table.from_pylist(rows, schema)
    except (ValueError, OverflowError) as err:  # a UnicodeEncodeError and an ArrowInvalid, too
        if len(rows) > 1:
            for row in rows:
                _table([row], schema)
        raise DataError(
            f"--to hf cannot hold a record of task {rows[0]['task_id']!a:.80}: {err} (half of a "
            "character, or a number above 64 bits)"
        ) from err


def _messages() -> Any:
    import pyarrow as pa

    fields = [("role", pa.string()), ("content", pa.string()), ("train", pa.bool_())]
    return pa.list_(pa.struct(fields))


def _trajectory_schema() -> Any:
    require("pyarrow", feature="--to hf", extra="train")
    import pyarrow as pa

    steps = [("action", pa.string()), ("observation", pa.string()), ("reward", pa.float64())]
    texts = pa.list_(pa.string())
    kinds = {"messages": _messages(), "steps": pa.list_(pa.struct(steps))}
    kinds |= {"reward": pa.float64(), "success": pa.bool_(), "reasoning": texts, "states": texts}
    kinds |= {"sample": pa.int64(), "seed": pa.int64()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in _TRAJECTORY_COLUMNS])


def _pair_schema() -> Any:
    require("pyarrow", feature="--to hf", extra="train")
    import pyarrow as pa

    texts = pa.list_(pa.string())
    kinds = {name: _messages() for name in ("prompt", "chosen", "rejected")}
    kinds |= {"head": pa.int64(), "chosen_states": texts, "rejected_states": texts}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in _PAIR_COLUMNS])


_TRAJECTORY_COLUMNS = {
    "task_id": "the task",
    "task_type": "the benchmark's category of the task",
    "messages": "the conversation; `train` marks the replies that are the agent's own",
    "steps": "action (null: none was found), observation and reward of each reply",
    "outcome": "`terminated`, `truncated` or `error`",
    "reward": "sum of the rewards",
    "success": "whether the task was solved",
    "error": "kind of the error, where the outcome is `error`: such episodes have no score",
    "policy": "who acted",
    "env": "the environment's card, as JSON",
    "sample": "index among the episodes of a task",
    "seed": "seed of the sampling",
    "usage": "token counts, as JSON",
    "reasoning": "what a server took out of each reply",
    "history": "how much of the conversation each reply was given to",
    "states": "state block before each reply, if any",
    "facts": "what is known of each reply, as JSON",
    "tokens": "tokens that were read and sampled for each reply, where recorded, as JSON",
    "player": "which model acted, where it was behind the one that learns from it, as JSON",
}
_PAIR_COLUMNS = {
    "task_id": "the task",
    "prompt": "messages that both sides share",
    "chosen": "the better continuation: replies, and the environment's answers between them",
    "rejected": "the worse continuation",
    "info": "where the pair comes from, as JSON",
    "history": "how much of the conversation each reply was given to",
    "head": "messages before the first observation, where the history is bounded",
    "chosen_states": "state blocks of the chosen side",
    "rejected_states": "state blocks of the rejected side",
}


def _write_card(
    folder: Path, title: str, counts: Mapping[str, str], columns: Mapping[str, str]
) -> None:
    configs = ["- config_name: default", "  default: true", "  data_files: data/*.parquet"]
    if len(counts) > 1:
        for name in counts:
            configs += [
                f"- config_name: {json.dumps(name, ensure_ascii=False)}",
                f"  data_files: {json.dumps(f'data/{name}.parquet', ensure_ascii=False)}",
            ]
    lines = ["---", "configs:", *configs, "tags: [agents, eto-gym]", "---", ""]
    lines += [f"# {title}", "", "Written by `eto-gym export --to hf`.", ""]
    lines += ["| part | holds |", "|---|---|"]
    lines += [f"| {name} | {what} |" for name, what in counts.items()]
    lines += ["", "| column | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {what} |" for name, what in columns.items()]
    write_text(folder / "README.md", "\n".join(lines) + "\n")
