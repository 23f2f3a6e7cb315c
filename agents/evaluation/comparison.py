"""Compares scores: which may be compared, and paired tests between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eto_gym.agents.evaluation.card import MATTERS, TOLD, results, score_card
from eto_gym.agents.evaluation.report import table, words
from eto_gym.agents.evaluation.statistics import (
    Estimate,
    PairedTest,
    compare_results,
    mean,
    success_rate,
)
from eto_gym.errors import DataError
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.numbers import is_number
from eto_gym.trajectories.record import counts


def _whole(value: Any) -> bool:
    return type(value) is int


def _text(value: Any) -> bool:
    return isinstance(value, str)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "task": ("a text", _text),
    "sample": ("a whole number", _whole),
    "success": ("true or false", lambda value: isinstance(value, bool)),
    "reward": ("a finite number", is_number),
    "steps": ("a whole number", lambda value: _whole(value) and 0 <= value < 2**53),
    "error": ("a text or null", lambda value: value is None or _text(value)),
    "start": ("a text", _text),
    "tricks": ("a list of texts", lambda value: isinstance(value, list) and all(map(_text, value))),
}
"""Fields of a result -> their kind, in words and as a check."""


@dataclass(frozen=True)
class ScoreRow:
    """One score.

    Attributes:
        name: What it is called in the table.
        card: See `score_card`.
        results: One per episode; see `results`.
        group: Only scores of one group are compared with each other: the environment, where it is
            a part of a panel's submission.
    """

    name: str
    card: dict[str, Any]
    results: list[dict[str, Any]]
    group: str = ""

    @property
    def scored(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The results that count, by task and sample."""
        return {(r["task"], r["sample"]): r for r in self.results if counts(r["error"])}


@dataclass(frozen=True)
class Compared:
    """One score against the first.

    Attributes:
        row: The score.
        success: Its success rate.
        reward: Its mean reward.
        steps: Its mean number of steps.
        matters: Facts that make it incomparable with the first -> both values.
        told: Other facts that differ.
        paired: The paired test; None for the first, and where no episode is common.
        suspicious: What looks like a trick among the gained episodes (all successful ones, of the
            first) -> how many.
    """

    row: ScoreRow
    success: Estimate
    reward: Estimate
    steps: Estimate
    matters: dict[str, tuple[Any, Any]]
    told: dict[str, tuple[Any, Any]]
    paired: PairedTest | None
    suspicious: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        told = {name: asdict(getattr(self, name)) for name in ("success", "reward", "steps")}
        return {
            "name": self.row.name,
            **told,
            "comparable": not self.matters,
            "differences": {k: list(v) for k, v in self.matters.items()},
            "told": {k: list(v) for k, v in self.told.items()},
            "paired": asdict(self.paired) if self.paired else None,
            "suspicious": self.suspicious,
            "card": self.row.card,
        }


def compare_rows(rows: Sequence[ScoreRow]) -> list[Compared]:
    """Compare every score with the first of its group."""
    first: dict[str, ScoreRow] = {}
    for row in rows:
        first.setdefault(row.group, row)
    return [_compared(first[row.group], row) for row in rows]


def _compared(first: ScoreRow, row: ScoreRow) -> Compared:
    scored = row.scored
    tasks = [task for task, _ in scored]
    values = list(scored.values())
    matters, told = differences(first, row)
    shared = set(first.scored) & set(scored)
    paired = None
    if row is not first and shared:
        paired = compare_results(first.scored, scored)
    gained = [
        result
        for key, result in scored.items()
        if result["success"] and (row is first or not first.scored.get(key, {}).get("success"))
    ]
    return Compared(
        row=row,
        success=success_rate([r["success"] for r in values], tasks),
        reward=mean([r["reward"] for r in values], tasks),
        steps=mean([r["steps"] for r in values], tasks),
        matters=matters,
        told=told,
        paired=paired,
        suspicious=dict(Counter(trick for result in gained for trick in result["tricks"])),
    )


def differences(
    first: ScoreRow, row: ScoreRow
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Return in which facts two cards differ: those that matter, and the others.

    What does not concern a scripted policy, and is None on its card, contradicts nothing. Data
    differ, too, where a common task begins with another observation.
    """
    a, b = first.card, row.card
    matters = {name: (a.get(name), b.get(name)) for name in MATTERS if a.get(name) != b.get(name)}
    for name in ("sampling", "admissible_actions"):
        if None in matters.get(name, ()):
            del matters[name]
    starts = [
        {first.scored[key]["start"], result["start"]} - {""}  # none: it ended before its first step
        for key, result in row.scored.items()
        if key in first.scored
    ]
    if any(len(different) > 1 for different in starts):
        matters["data_digest"] = (a.get("starts_digest"), b.get("starts_digest"))
    told = {name: (a.get(name), b.get(name)) for name in TOLD if a.get(name) != b.get(name)}
    return matters, told


# --- files ---------------------------------------------------------------------------------------


def load_rows(paths: Iterable[Path]) -> list[ScoreRow]:
    """Read scores: run folders (every policy of their report), reports of `eval`, trajectories.

    Raises:
        DataError: A path holds no score, or one that was made before there were cards.
    """
    rows: list[ScoreRow] = []
    for path in paths:
        if path.is_dir():
            rows += _folder(path)
        elif path.suffix == ".jsonl":
            rows += _trajectories(path)
        elif path.is_file():
            told = _object(path)
            rows += _submission(path, told) if "reports" in told else [_report(path, told)]
        else:
            raise DataError(f"there is no file or folder {path}")
    return _named_apart(rows)


def _submission(path: Path, told: dict[str, Any]) -> list[ScoreRow]:
    """Return the scores of a panel's submission, each in the group of its environment."""
    reports = told["reports"]
    if not isinstance(reports, list) or not all(isinstance(item, dict) for item in reports):
        raise DataError(f"{path}: expected a list of reports under 'reports'")
    rows = []
    for report in reports:
        row = _report(path, report)
        env = str(row.card.get("env"))
        rows.append(ScoreRow(f"{told.get('name') or path.stem}: {env}", row.card, row.results, env))
    return rows


def _folder(folder: Path) -> list[ScoreRow]:
    report = folder / "report.json"
    if report.is_file():
        return _loop(folder, _object(report))
    reports = sorted(folder.glob("*.report.json"))
    if not reports:
        raise DataError(
            f"{folder} holds no report: expected the run folder of a run that has ended, or "
            "reports of `eto-gym eval`"
        )
    return [_report(path, _object(path)) for path in reports]


def _loop(folder: Path, report: dict[str, Any]) -> list[ScoreRow]:
    """Return the scores of a run folder: of a loop, or of Stable-Baselines3's algorithms."""
    policies = report.get("policies")
    if isinstance(policies, dict) and policies:
        files = [folder / "evaluation" / f"{_part(name)}.jsonl" for name in policies]
        found = [row for file in files for row in _trajectories(file)]
        return [replace(row, name=f"{folder.name}: {row.name}") for row in found]
    if not isinstance(policies, list) or not policies:
        raise DataError(f"{folder / 'report.json'} names no policy under 'policies'")
    rows = []
    for policy in policies:
        name = policy.get("policy") if isinstance(policy, dict) else None
        if not isinstance(name, str):
            raise DataError(f"{folder / 'report.json'}: no policy with a name: {policy!r:.200}")
        card, stage = policy.get("card"), policy.get("stage")
        if not isinstance(card, dict) or not isinstance(stage, str):
            raise DataError(
                f"{folder} was made before scores had cards: start the same command again, which "
                "repeats no finished stage and writes its report anew"
            )
        played = TrajectoryStore(folder / "stages" / _part(stage) / "trajectories.jsonl").load()
        rows.append(ScoreRow(f"{folder.name}: {name}", card, results(played)))
    return rows


def _part(name: str) -> str:
    """Return the name of a part of a run folder, which leads nowhere else."""
    if Path(name).name != name:
        raise DataError(f"expected the name of a part of a run folder, got {name!r:.200}")
    return name


def _report(path: Path, report: dict[str, Any]) -> ScoreRow:
    card, episodes = report.get("card"), report.get("results")
    if not isinstance(card, dict) or not isinstance(episodes, list):
        raise DataError(
            f"{path} is no report with a card: expected one that `eto-gym eval` wrote; one of an "
            "older version is written anew by the same command"
        )
    for item in episodes:
        if not (isinstance(item, dict) and set(_KINDS) <= set(item)):
            raise DataError(f"{path}: a result lacks one of {sorted(_KINDS)}: {item!r:.200}")
        for name, (kind, fits) in _KINDS.items():
            if not fits(item[name]):
                raise DataError(
                    f"{path}: expected {name!r} of a result as {kind}, got {item[name]!r:.80}"
                )
    name = str(report.get("name") or path.name.removesuffix(".json").removesuffix(".report"))
    return ScoreRow(name, card, episodes)


def _trajectories(path: Path) -> list[ScoreRow]:
    """Return the score of a file's trajectories, or one for each policy that played in it."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    settings = path.with_name(f"{path.stem}.settings.json")
    about = _object(settings) if settings.is_file() else {}
    latest: dict[str, dict[tuple[str, int], Trajectory]] = {}
    for trajectory in TrajectoryStore(path).load():
        latest.setdefault(trajectory.policy, {})[trajectory.key] = trajectory
    if not latest:
        raise DataError(f"no trajectory in {path}")
    rows = []
    for policy, own in latest.items():
        played = list(own.values())
        name = path.stem if len(latest) == 1 else f"{path.stem}: {policy}"
        rows.append(ScoreRow(name, score_card(played, about), results(played)))
    return rows


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(f"{path} is no JSON: {err}") from err
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _named_apart(rows: list[ScoreRow]) -> list[ScoreRow]:
    counts: Counter[str] = Counter()
    named = []
    for row in rows:
        counts[row.name] += 1
        suffix = f" ({counts[row.name]})" if counts[row.name] > 1 else ""
        named.append(replace(row, name=row.name + suffix))
    return named


# --- words ---------------------------------------------------------------------------------------


def render(compared: Sequence[Compared]) -> str:
    """Render a comparison as Markdown."""
    header = ["score", "episodes", "success", "reward", "steps", "gained", "lost", "p"]
    groups = {item.row.group for item in compared}
    first = compared[0].row.name if len(groups) == 1 else "the first of the same environment"
    compared = sorted(compared, key=lambda item: item.row.group)  # stable: the first stays first
    lines = [
        *table(header, [_cells(item) for item in compared]),
        "",
        f"Gained, lost and p are against {first}, on the same episodes (exact test).",
    ]
    for item in compared:
        if item.matters:
            lines.append(f"* {item.row.name} is not comparable: {difference_text(item.matters)}.")
        if item.told:
            lines.append(f"- {item.row.name} differs in: {difference_text(item.told)}.")
        if item.suspicious:
            kinds = ", ".join(f"{kind} {count}" for kind, count in item.suspicious.items())
            what = "gains" if item.paired else "successes"
            lines.append(f"! {item.row.name}, suspicious {what}: {kinds}. Look at them.")
    return "\n".join(lines)


def _cells(item: Compared) -> list[str]:
    test = item.paired
    cells = [
        item.row.name + (" *" if item.matters else ""),
        str(len(item.row.scored)),
        *(words(item.success, 3), words(item.reward, 3), words(item.steps, 1)),
    ]
    return [*cells, *((str(test.gained), str(test.lost), f"{test.p:.2g}") if test else [""] * 3)]


def difference_text(facts: Mapping[str, tuple[Any, Any]]) -> str:
    """Name facts with both of their values."""
    told = [f"{name} {_short(a)} there, {_short(b)} here" for name, (a, b) in facts.items()]
    return "; ".join(told)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
