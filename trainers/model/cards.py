"""The model card of a finished folder: what the hub shows of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import eto_gym

CARD = "README.md"
_RESULT = ("fingerprint", "steps", "kept_step", "final_loss", "adapter")
_SETTINGS = ("epochs", "learning_rate", "batch_size", "max_length", "beta", "lora", "qlora", "seed")


def model_card(report: Mapping[str, Any], *, base: str | None, adapter: bool) -> str:
    """Return the text of a card.

    Args:
        report: What `training.json` holds: the method, its settings, and its result.
        base: Model that was trained, or the base of an adapter. A folder of this machine is told
            in the text, and not as metadata, which the hub takes for one of its own names.
        adapter: Whether the folder holds an adapter.
    """
    method = str(report.get("method", "training"))
    known = base is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    head = ["---", "tags:", "- eto-gym", f"- {method}"]
    head += ["library_name: peft"] if adapter else ["library_name: transformers"]
    if known:
        head.append(f"base_model: {base}")
    lines = [*head, "---", "", f"# {'Adapter' if adapter else 'Model'} trained by {method}", ""]
    told = f"Written by eto-gym {eto_gym.__version__}."
    lines += [told if base is None else f"{told} Base: `{_plain(base)}`.", ""]
    rows = {
        **_chosen(report, _RESULT),
        **_best(report.get("best")),
        **_chosen(report.get("data"), None),
        **_chosen(report.get("settings"), _SETTINGS),
    }
    if rows:
        lines += ["| what | value |", "|---|---|"]
        lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in rows.items()]
        lines.append("")
    told = f"`{_REPORT}` beside this file has all settings and the whole result."
    lines += [f"The fingerprint is a hash of data, settings and model. {told}"]
    return "\n".join(lines) + "\n"


_REPORT = "training.json"


def _best(best: Any) -> dict[str, str]:
    """Tell the score of the weights that were kept, where the run was scored."""
    if not isinstance(best, list | tuple) or len(best) != 2:
        return {}
    return {"score on dev tasks": f"{best[1]:.4g} (step {best[0]})"}


def _chosen(values: Any, names: tuple[str, ...] | None) -> dict[str, str]:
    """Return values as text, those of `names` or all; what is no plain value is left out."""
    if not isinstance(values, Mapping):
        return {}
    found = {}
    for name in values if names is None else names:
        value = values.get(name)
        if isinstance(value, bool | int):
            found[str(name)] = str(value)
        elif isinstance(value, float):
            found[str(name)] = f"{value:.4g}"
        elif isinstance(value, str) and value:
            found[str(name)] = f"`{_plain(value)}`"
    return found


def _plain(text: str) -> str:
    """Return a text that stays within its cell: folders of this machine by their name alone."""
    text = Path(text).name if text.startswith(("/", "~", ".")) else text
    return " ".join(text.replace("|", "/").replace("`", "'").split())[:120]
