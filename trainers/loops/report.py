"""The report of a run: JSON for programs, a Markdown table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from eto_gym.agents.evaluation.card import card_lines, score_card
from eto_gym.agents.evaluation.report import table
from eto_gym.agents.evaluation.statistics import compare
from eto_gym.agents.models.model_names import folder_of_model
from eto_gym.agents.models.template import reads_clock, run_date, template_of
from eto_gym.files import write_json, write_text
from eto_gym.registration import resolve_env_id
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import load_trajectories, model_of
from eto_gym.trainers.settings.world import WorldSettings
from eto_gym.view import write_view

CONTROL = "control: SFT continued"


class Evaluated(NamedTuple):
    """A policy of a run, which becomes a row of its report.

    Attributes:
        label: Its name there.
        model: The stage that made its model.
        evaluation: The stage that evaluated it.
        staleness: Trainings by which the model was behind that played what this one learnt from.
    """

    label: str
    model: Stage
    evaluation: Stage
    staleness: int = 0


def make_report(
    settings: WorldSettings,
    *,
    method: str,
    reference: str,
    policies: Sequence[Evaluated],
    stages: Sequence[Stage],
    ended: str | None = None,
) -> dict[str, Any]:
    """Put together what a run found.

    Args:
        settings: What was run.
        method: Name of the method.
        reference: Label of the policy that the others are compared with, on the same episodes.
            Those that the method made are compared with the control, too, where there is one.
        policies: What was evaluated, in order: the reference, and then what the method made of it.
        stages: All stages, in order.
        ended: Why the run ended before its last stage; None: it did not.
    """
    evaluations = {row.label: row.evaluation for row in policies}
    before = load_trajectories(evaluations[reference])
    control = load_trajectories(evaluations[CONTROL]) if CONTROL in evaluations else None
    rows: list[dict[str, Any]] = []
    own = False
    for label, model, evaluation, staleness in policies:
        played = load_trajectories(evaluation)
        row = {
            "policy": label,
            **evaluation.result,
            "stage": evaluation.path.name,
            "card": score_card(played, {**_about(settings, model), "staleness": staleness}),
            "train_seconds": model.seconds,
            "eval_seconds": evaluation.seconds,
        }
        if label != reference:
            row["paired"] = asdict(compare(before, played))
        if control is not None and own and label != CONTROL:
            row["paired_with_control"] = asdict(compare(control, played))
        own = own or label == reference
        rows.append(row)
    return {
        "method": method,
        "env": settings.env,
        "env_kwargs": settings.env_kwargs(),
        "data": settings.data,
        "preset": settings.preset,
        "model": settings.model,
        "seed": settings.seed,
        "reference": reference,
        "ended": ended,
        "policies": rows,
        "stages": [
            {
                "name": x.name,
                "key": x.key,
                "seconds": x.seconds,
                "reused": x.reused,
                "result": x.result,
            }
            for x in stages
        ],
    }


def _about(settings: WorldSettings, model: Stage) -> dict[str, Any]:
    """Return what decided the episodes of an evaluation, as `eto-gym eval` tells it."""
    variables = settings.template_kwargs
    dated = reads_clock(template_of(folder_of_model(model_of(model))))
    return {
        **({"template_kwargs": variables} if variables else {}),
        # Servers play as their own arguments say.
        **({"dtype": settings.play_dtype} if settings.play_kind == "local" else {}),
        # A model that was trained has its date in its template.
        **({"date": run_date()} if dated and "date_string" not in variables else {}),
        "env": resolve_env_id(settings.env),
        "env_kwargs": settings.env_kwargs(),
        "prompt_style": settings.prompt_style,
        "seed": settings.seed,
        "policy": model_of(model),
        "temperature": 0.0,
        "max_new_tokens": settings.max_new_tokens,
        "context": settings.max_context,
    }


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json`, `report.md`, and `report.html` with all episodes, into a run folder."""
    write_json(folder / "report.json", json.loads(json.dumps(report, default=str)))
    write_text(folder / "report.md", render(report) + "\n")
    write_view([folder], folder / "report.html")


def render(report: dict[str, Any]) -> str:
    """Render the report as Markdown: policies, the paired tests, and the time of every stage."""
    head = f"# {report['env']} ({_data(report)}), preset {report['preset']}, seed {report['seed']}"
    rows, reference = report["policies"], report["reference"]
    episodes = rows[0]["episodes"]
    lines = [
        head,
        "",
        f"Greedy replies on {episodes} held-out episodes; brackets hold 95% intervals. "
        f"Model: {report['model']}.",
        "",
        *table(
            ["policy", "success", "reward", "steps", "tokens", "bad replies", "errors"],
            [_policy_row(row) for row in rows],
        ),
        "",
        *_paired(rows, "paired", _short(reference)),
        *_paired(rows, "paired_with_control", "the control"),
        *(table(["stage", "wall time"], [[x["name"], _time(x)] for x in report["stages"]])),
        "",
        *_played_ahead(report["stages"]),
        *_not_the_last(report["stages"]),
        *([*card_lines(rows[-1]["card"]), ""] if "card" in rows[-1] else []),
        conclusion(report),
    ]
    return "\n".join(lines)


def conclusion(report: dict[str, Any]) -> str:
    """Say in one line what became of the last policy that the method made.

    A run may end with a model that is worse than the one that it began with, whatever its losses
    said; this line says so first.
    """
    reference = _short(report["reference"])
    labels = [row["policy"] for row in report["policies"]]
    later = report["policies"][labels.index(report["reference"]) + 1 :]
    own = [row for row in later if row["policy"] != CONTROL]
    if report.get("ended"):
        return f"ENDED EARLY: {report['ended']}."
    if not own:
        return f"Nothing was trained beyond {reference}."
    row = own[-1]
    test = row["paired"]
    change = _significant(test)
    if change == 0:
        words = f"No gain shown: {row['policy']} is neither better nor worse than {reference}"
    elif change < 0:
        words = f"WORSE: {row['policy']} lost to {reference}; keep {reference}'s model"
    else:
        words = f"Better: {row['policy']} beats {reference}"
    counts = f"{test['gained']} episodes gained, {test['lost']} lost, p {test['p']:.2g}"
    return f"{words} ({counts}; {_reward(test['reward'])})."


def _played_ahead(stages: list[dict[str, Any]]) -> list[str]:
    """Say which stages were played by a model that was behind; nothing where there is none."""
    told = []
    for stage in stages:
        player = stage["result"].get("player") if isinstance(stage["result"], dict) else None
        if player:
            told.append(f"{stage['name']} by {player['model']}")
    if not told:
        return []
    return [
        "Explored by the model before the one that learnt from it (one training behind): "
        f"{', '.join(told)}.",
        "",
    ]


def _not_the_last(stages: list[dict[str, Any]]) -> list[str]:
    """Say which trainings ended with weights of an earlier step; nothing where none did."""
    told = []
    for stage in stages:
        result = stage["result"] if isinstance(stage["result"], dict) else {}
        kept, scores = result.get("kept_step"), result.get("scores")
        if kept is None or not scores or kept == scores[-1][0]:
            continue
        what = f"keeps the weights of {kept} of {scores[-1][0]}"
        if kept == scores[0][0]:
            what = "changed nothing: it keeps the weights that it began with"
        successes = ", ".join(f"{score:.3f} after {step}" for step, score in scores)
        told.append(f"{stage['name']} {what}, as dev tasks tell (success {successes}).")
    return [*told, ""] if told else []


def _significant(test: dict[str, Any]) -> float:
    """Return by how much a paired test differs, in successes or else in reward; 0: by noise."""
    if test["p"] < 0.05:
        return float(test["gained"] - test["lost"])
    reward = test["reward"]
    apart = reward["low"] is not None and (reward["low"] > 0 or reward["high"] < 0)
    return float(reward["mean"]) if apart else 0.0


def _paired(rows: list[dict[str, Any]], key: str, reference: str) -> list[str]:
    """Render the paired tests under one key of the rows; nothing where there is none."""
    tests = [(row["policy"], row[key]) for row in rows if key in row]
    if not tests:
        return []
    return [
        f"Paired with {reference} on the same episodes (exact McNemar test):",
        "",
        *table(
            ["policy", "gained", "lost", "p"],
            [[name, str(t["gained"]), str(t["lost"]), f"{t['p']:.2g}"] for name, t in tests],
        ),
        "",
        *_verdicts(tests, reference),
        "",
    ]


def _verdicts(tests: list[tuple[str, dict[str, Any]]], reference: str) -> list[str]:
    """Say in words what each paired test shows.

    A p-value of 0.05 and more of the successes is called noise, unless the interval of the rewards
    leaves out 0: where an episode earns parts of a reward, they tell more than its success.
    """
    verdicts = []
    for name, test in tests:
        change = _significant(test)
        if change == 0:
            words = f"differs from {reference} by no more than noise"
        else:
            words = f"is {'better' if change > 0 else 'worse'} than {reference}"
        counts = f"{test['gained'] - test['lost']:+d} episodes, p {test['p']:.2g}"
        verdicts.append(f"- {name} {words} ({counts}; {_reward(test['reward'])}).")
    return verdicts


def _reward(change: dict[str, float | None]) -> str:
    mean, low, high = (_number(change[name], 3) for name in ("mean", "low", "high"))
    interval = "" if "-" in (low, high) else f" [{low}, {high}]"
    sign = "" if mean.startswith("-") else "+"
    return f"mean reward {sign}{mean}{interval}"


def _short(label: str) -> str:
    """Leave out what a label says in brackets."""
    return label.partition(" (")[0]


def _policy_row(row: dict[str, Any]) -> list[str]:
    tokens = row["generated_tokens"]
    return [
        row["policy"],
        _estimate(row["success"]),
        _estimate(row["reward"]),
        _number(row["steps"], 1),
        _number(tokens, 0),
        f"{row['format_errors']:.1%}",
        ", ".join(f"{kind} {count}" for kind, count in row["errors"].items()) or "0",
    ]


def _data(report: dict[str, Any]) -> str:
    data = report.get("data") or "builtin"
    return "built-in tasks" if data == "builtin" else str(data)


def _estimate(value: dict[str, float | None]) -> str:
    mean, low, high = (_number(value[name], 3) for name in ("mean", "low", "high"))
    return mean if "-" in (low, high) else f"{mean} [{low}, {high}]"


def _number(value: float | None, digits: int) -> str:
    """Write a number; one that does not exist (no episode, no interval) is a dash."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _time(stage: dict[str, Any]) -> str:
    return f"{stage['seconds']:.1f} s" + (" (earlier run)" if stage["reused"] else "")
