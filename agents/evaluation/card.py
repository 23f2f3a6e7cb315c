"""The card of a score: everything that it depends on, in a form that programs compare."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gymnasium as gym

import eto_gym
from eto_gym.agents.evaluation.habits import habits, tricks
from eto_gym.agents.models.hardware import played_dtype
from eto_gym.agents.models.model_names import folder_of_model
from eto_gym.conversation import PARSER_VERSION
from eto_gym.trajectories import Trajectory

FORMAT = 1

MATTERS = (
    *("env", "engine", "engine_version", "data", "env_settings", "split", "tasks_digest"),
    *("samples", "grammar", "history", "prompt_style", "prompt_digest", "admissible_actions"),
    *("parser", "step_limit", "sampling"),
)
"""Facts that make two scores incomparable where they differ."""

TOLD = ("policy", "model", "model_digest", "server", "seed", "eto_gym", "staleness")
"""Facts that may differ: they are what is compared, or have no effect on what is played."""

_SAMPLING = ("temperature", "top_p", "max_new_tokens", "stop", "context", "on_full", "extra_body")
_GIVEN = ("chat_template", "template_kwargs", "date", "dtype", "quantization")
_SCRIPTED = ("expert", "player", "random")
_MODEL_FILES = (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt", ".gguf")
_WHOLE = 1 << 26  # bytes of a file up to which all of it enters a model's digest
_ENGINE = ("engine", "backend")
_OWN_FIELDS = ("benchmark", "env", "split", "tasks", "tasks_digest", "data", "catalog")


def score_card(trajectories: Sequence[Trajectory], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of what some episodes score.

    Args:
        trajectories: The episodes.
        about: What was asked for: "env", "env_kwargs", "prompt_style", "seed", "policy" (a scripted
            one's name, a model's folder or hub name, or "endpoint:URL"), and the arguments of the
            policy. What is missing is unknown, and is None on the card. "staleness", which is on it
            only where it is more than 0: trainings by which the model was behind that played what
            the evaluated one learnt from.

    Returns:
        The facts of `MATTERS` and `TOLD`, "tasks", "episodes", "starts_digest" (of the first
        observations: data with the same ids but other contents differ in it), and "counts".
    """
    played = [t for t in trajectories if t.messages]
    env_card = dict(played[0].env) if played else {}
    env_id = about.get("env") or env_card.get("env")
    tasks = sorted({t.task_id for t in trajectories})
    return {
        "format": FORMAT,
        "env": env_id,
        "engine": next((env_card[name] for name in _ENGINE if name in env_card), None),
        "engine_version": next(
            (env_card[f"{name}_version"] for name in _ENGINE if f"{name}_version" in env_card), None
        ),
        "data": env_card.get("data", env_card.get("catalog")),
        "env_settings": _env_settings(env_card),
        "split": env_card.get("split"),
        "tasks": len(tasks),
        "tasks_digest": digest(tasks),
        "samples": 1 + max((t.sample for t in trajectories), default=0),
        "starts_digest": digest(sorted({(t.task_id, start_digest(t)) for t in played})),
        "grammar": env_card.get("action_grammar", env_card.get("split_scheme")),
        "history": played[0].history if played else None,
        "prompt_style": about.get("prompt_style"),
        "prompt_digest": digest(sorted({_head(t) for t in played})),
        "admissible_actions": _shown(about),
        "parser": PARSER_VERSION,
        "step_limit": _step_limit(env_id, about, env_card),
        **_policy_facts(about, played),
        "seed": about.get("seed"),
        "eto_gym": eto_gym.__version__,
        **({"staleness": about["staleness"]} if about.get("staleness") else {}),
        "episodes": len(trajectories),
        "counts": habits(trajectories).to_json(),
    }


def results(trajectories: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """Return one row per episode: with them a score is compared without its trajectories."""
    return [
        {
            "task": t.task_id,
            "sample": t.sample,
            "success": t.success,
            "reward": t.reward,
            "steps": len(t.steps),
            "error": t.error,
            "start": start_digest(t),
            "tricks": list(tricks(t)),
        }
        for t in trajectories
    ]


def digest(value: Any) -> str:
    """Return a short hash of any JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def start_digest(t: Trajectory) -> str:
    """Return a short hash of what an episode began with, the prompt excluded."""
    start = t.start
    return digest(t.messages[start].content)[:8] if start < len(t.messages) else ""


def _head(t: Trajectory) -> str:
    return digest([[m.role, m.content] for m in t.messages[: t.start]])


def _env_settings(env_card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an environment's card says beyond the facts that have a name of their own."""
    taken = {*_OWN_FIELDS, *_ENGINE, *(f"{name}_version" for name in _ENGINE)}
    return {name: value for name, value in env_card.items() if name not in taken}


def _shown(about: Mapping[str, Any]) -> bool | None:
    """Tell whether the policy had the admissible actions; None for scripts."""
    if about.get("policy") in (None, *_SCRIPTED):
        return None
    return bool(dict(about.get("env_kwargs") or {}).get("admissible_actions"))


def _step_limit(env_id: Any, about: Mapping[str, Any], env_card: Mapping[str, Any]) -> Any:
    given = dict(about.get("env_kwargs") or {}).get("max_episode_steps")
    if given is not None:
        return given
    name = str(env_id or "").rpartition(":")[2]
    limit = gym.registry[name].max_episode_steps if name in gym.registry else None
    return "per task" if env_card.get("task_step_limits") else limit


# --- the policy ----------------------------------------------------------------------------------


def _policy_facts(about: Mapping[str, Any], played: Sequence[Trajectory]) -> dict[str, Any]:
    named = about.get("policy")
    facts: dict[str, Any] = {
        "policy": played[0].policy if played else named,
        **{"model": None, "model_digest": None, "server": None, "sampling": None},
    }
    if named is None or named in _SCRIPTED:
        return facts
    kind, colon, rest = str(named).partition(":")
    if kind == "endpoint" and colon:
        facts["server"] = ",".join(_address(url) for url in rest.split(","))
        facts["model"] = about.get("model") or facts["policy"]
        facts["sampling"] = _sampling(about, "endpoint")
        return facts
    facts["model"] = str(named)
    facts["model_digest"] = model_digest(named)
    if adapter := about.get("adapter"):
        facts["model"] = f"{named} + {adapter}"
        facts["model_digest"] = digest([facts["model_digest"], model_digest(adapter)])
    facts["sampling"] = _sampling(about, "local")
    return facts


def _sampling(about: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the sampling settings, those included that were left at their defaults."""
    if kind == "local":
        from eto_gym.agents.models.local import LocalPolicy as Policy
    else:
        from eto_gym.agents.endpoint.policy import (  # type: ignore[assignment]
            EndpointPolicy as Policy,
        )
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(Policy.__init__).parameters.items()
        if name in _SAMPLING
    }
    asked = {name: about[name] for name in defaults if name in about}
    # How the prompt is made of a conversation, and the weights: told where not as the folder says.
    given = {name: about[name] for name in _GIVEN if about.get(name)}
    if "dtype" in given:
        given["dtype"] = played_dtype(given["dtype"], about.get("device", "auto"))
        if given["dtype"] == "auto":
            del given["dtype"]  # as the folder says
    told = json.loads(json.dumps({**defaults, **asked, **given}))
    if told.get("temperature") == 0:
        told.pop("top_p", None)  # greedy: it has no effect
    return dict(told)


def _address(url: str) -> str:
    """Return a server's address without what may be secret in it."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def model_digest(model: str | Path) -> str | None:
    """Return a digest of a model's weights, tokenizer and configuration.

    Of files over 64 MB their size and 16 pieces, evenly spread, stand for the whole.

    Args:
        model: What `--model` takes, as far as it is on this machine: a folder, a GGUF file that was
            converted, "smollm2", or a name whose snapshot lies in the Hugging Face cache; of
            anything else the digest is None.
    """
    folder = folder_of_model(model)
    if not folder.is_dir():
        found = _snapshot(str(model))
        if found is None:
            return None
        folder = found
    told = []
    for path in sorted(folder.iterdir()):
        if path.suffix in _MODEL_FILES and path.name != "training.json":  # how it was made
            told.append([path.name, _file_digest(path)])
    return digest(told) if told else None


def _file_digest(path: Path) -> str:
    hashed = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            hashed.update(file.read())
        else:
            hashed.update(str(size).encode())
            for i in range(16):
                file.seek(i * (size - (1 << 16)) // 15)
                hashed.update(file.read(1 << 16))
    return hashed.hexdigest()


def _snapshot(name: str) -> Path | None:
    """Return the folder of a hub model that was downloaded, without asking the hub."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def card_lines(card: Mapping[str, Any]) -> list[str]:
    """Say in a few lines, for people, what a score depends on and what was counted."""
    counts = card["counts"]
    sampling = card["sampling"]
    how = ", ".join(f"{name} {value}" for name, value in (sampling or {}).items() if value)
    behind = card.get("staleness")
    name = {"engine": "own", None: "unknown"}.get(card["engine"], card["engine"])
    engine = f"{name} {card['engine_version'] or ''}".strip()
    lines = [
        f"Card: {card['env']}, engine {engine}, split {card['split']}, "
        f"{card['tasks']} tasks ({card['tasks_digest'][:8]}), prompt "
        f"{card['prompt_style']} ({card['prompt_digest'][:8]}), history {card['history']}, parser "
        f"{card['parser']}, step limit {card['step_limit']}"
        + (f"; {how}" if how else "")
        + (f"; model {(card['model_digest'] or 'unknown')[:8]}" if card["model"] else "")
        + (f"; learnt from play {behind} training behind" if behind else "")
        + "."
    ]
    known = counts["admissible_known"]
    inadmissible = f"{counts['inadmissible']} of {known} inadmissible" if known else ""
    lines.append(
        f"Of {counts['replies']} replies: {counts['cut']} cut at their limit, "
        f"{counts['unparsable']} without an action, {counts['repeated']} repeated the action "
        f"before, {counts['without_effect']} without effect"
        + (f", {inadmissible}" if inadmissible else "")
        + f". Episodes ended by the step limit: {counts['truncated']}."
    )
    if counts["replies"] and counts["cut"] == counts["replies"]:
        limit = (sampling or {}).get("max_new_tokens")
        lines.append(
            f"EVERY REPLY WAS CUT at {limit} tokens: the score says nothing about the policy. Give "
            "it more room (--max-new-tokens)."
        )
    elif counts["cut"] > 0.1 * counts["replies"]:
        lines.append("More than a tenth of the replies were cut: max_new_tokens is too small.")
    return lines
