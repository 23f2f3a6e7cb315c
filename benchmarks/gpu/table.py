"""The results of a run as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eto_gym.benchmarks.gpu.plan import COMPILED, SHAPES

Row = dict[str, Any]

NAMES = {"trl": "TRL, fused head", "padded": "ours, sharing off", "ours": "ours, sharing on"}


def table(rows: Sequence[Row]) -> str:
    """Return tables of all rows; what was not measured stands in them with the reason."""
    made = [_rate(rows), _training(rows), _rollouts(rows), _tests(rows)]
    return "\n\n".join(part for part in made if part) + "\n"


def compare(rows: Sequence[Row], row: Row) -> Row:
    """Return what a training's row is beside TRL's of the same rows, as far as both were measured.

    Returns:
        "peak", its memory as a part of TRL's (None where none was seen); "speed", its tokens per
        second, likewise; and "difference", the largest relative difference of a loss.
    """
    same = ("kind", "model", "method", "tokens")
    for other in rows:
        if other["variant"] == "trl" and all(other[name] == row[name] for name in same):
            break
    else:
        return {}
    if "error" in row or "error" in other:
        return {}
    pairs = list(zip(row["losses"], other["losses"], strict=True))
    return {
        "peak": row["training_mb"] / other["training_mb"] if other["training_mb"] > 0 else None,
        "speed": row["step_tokens_per_s"] / other["step_tokens_per_s"],
        "difference": max(abs(a - b) / abs(b) for a, b in pairs),
    }


def _rate(rows: Sequence[Row]) -> str:
    found = next((row for row in rows if row["kind"] == "rate"), None)
    if found is None:
        return ""
    if "error" in found:
        return f"The device: {found['error']}"
    tera = found["operations_per_s"] / 1e12
    memory = f", {found['card_bytes'] / 2**30:.0f} GiB" if found["card_bytes"] else ""
    return (
        f"{found['device']}{memory}; torch {found['torch']}, transformers {found['transformers']}; "
        f"product of bf16 matrices: {tera:.3g} TFLOP/s"
    )


def _training(rows: Sequence[Row]) -> str:
    lines = [
        "| | model | method | tokens a side | variant | GiB | tokens/s | before, s | share of the "
        "matrix rate | last loss | difference | GiB against TRL | tokens/s against TRL |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    fastest = next((r["operations_per_s"] for r in rows if r["kind"] == "rate" and _ok(r)), None)
    for row in rows:
        if row["kind"] not in ("dpo", "sft"):
            continue
        cells = [row["kind"].upper(), row["model"], row["method"], f"{row['tokens']:,}"]
        cells.append(NAMES[row["variant"]])
        if not _ok(row):
            lines.append(_line([*cells, row["error"], *[""] * 7]))
            continue
        beside = compare(rows, row)
        share = row["operations_per_s"] / fastest if fastest else None
        cells += [
            f"{row['training_mb'] * 1e6 / 2**30:.2f}",
            f"{row['step_tokens_per_s']:,.0f}",
            f"{row['before_s']:.1f}",
            "" if share is None else f"{share:.2f}",
            f"{row['losses'][-1]:.6f}",
            f"{beside['difference']:.1e}" if beside else "",
            f"{beside['peak']:.2f}x" if beside.get("peak") else "",
            f"{beside['speed']:.2f}x" if beside else "",
        ]
        lines.append(_line(cells))
    return "\n".join(lines) if len(lines) > 2 else ""


def _rollouts(rows: Sequence[Row]) -> str:
    lines = [
        "| player | model | conversations | rollouts per hour | tokens decoded per s | against "
        "`generate` |",
        "|---|---|---|---|---|---|",
    ]
    alone = next((r["decoded_per_s"] for r in rows if r["kind"] == "generate" and _ok(r)), None)
    for row in rows:
        if row["kind"] not in ("generate", "rollouts"):
            continue
        name = "`generate`, one by one" if row["kind"] == "generate" else "local player"
        name += ", compiled step" if row.get("variant") == COMPILED else ""
        cells = [name, row["model"], str(row["conversations"])]
        if not _ok(row):
            lines.append(_line([*cells, row["error"], "", ""]))
            continue
        ratio = f"{row['decoded_per_s'] / alone:.1f}x" if alone else ""
        cells += [f"{row['rollouts_per_hour']:,.0f}", f"{row['decoded_per_s']:,.0f}", ratio]
        lines.append(_line(cells))
    if len(lines) == 2:
        return ""
    names = {row["model"] for row in rows if row["kind"] == "rollouts"}
    shapes = next(shapes for shapes in SHAPES.values() if shapes.small in names or not names)
    lines.append(
        f"\nConversations of {shapes.turns} turns: {shapes.instruction} tokens of instruction, "
        f"{shapes.observation} of an observation, {shapes.reply} of a reply; random words, no "
        "environment."
    )
    return "\n".join(lines)


def _tests(rows: Sequence[Row]) -> str:
    found = next((row for row in rows if row["kind"] == "tests"), None)
    if found is None:
        return ""
    if "error" in found:
        return f"Tests marked `cuda`: {found['error']}"
    said = f"Tests marked `cuda`: {found['passed']} passed, {found['failed']} failed, "
    return f"{said}{found['skipped']} skipped" + "".join(f"\n- {t}" for t in found["failures"])


def _ok(row: Row) -> bool:
    return "error" not in row


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
