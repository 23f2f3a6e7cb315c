"""The Agent Trajectory Interchange Format (ATIF) of Harbor: a JSON file per trajectory.

Source: https://github.com/laude-institute/harbor (docs/rfcs/0001-trajectory-format.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import eto_gym
from eto_gym.errors import DataError
from eto_gym.files import write_json
from eto_gym.trajectories import Trajectory

VERSION = "ATIF-v1.4"
_SOURCES = {"system": "system", "user": "user", "assistant": "agent"}
_TOOL = "act"
_COUNTS = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "decoded_tokens",
}
"""Name of a token count in ATIF -> ours."""


def write_atif(episodes: Sequence[Trajectory], folder: Path) -> None:
    """Write a file per trajectory: `00001.json` and so on, in their order.

    Args:
        episodes: The trajectories.
        folder: Is made.
    """
    folder.mkdir(parents=True)
    for number, episode in enumerate(episodes, start=1):
        write_json(folder / f"{number:05}.json", to_atif(episode))


def to_atif(episode: Trajectory) -> dict[str, Any]:
    """Return a trajectory as ATIF.

    An action is a call of the tool `act`, and the environment's answer to it its observation. The
    conversation before the first own reply stands as steps without a call. `extra` holds what ATIF
    has no place for, so that `from_atif` loses nothing.
    """
    steps: list[dict[str, Any]] = []
    first = len(episode.messages) - len(_own(episode))
    for message in episode.messages[:first]:
        steps.append(_step(steps, _SOURCES[message.role], message.content))
    replies = [message for message in _own(episode) if message.role == "assistant"]
    for turn, (reply, taken) in enumerate(zip(replies, episode.steps, strict=False)):
        step = _step(steps, "agent", reply.content)
        step["model_name"] = episode.policy
        if episode.reasoning and episode.reasoning[turn]:
            step["reasoning_content"] = episode.reasoning[turn]
        call = f"call_{turn + 1}"
        if taken.action is not None:
            arguments = {"action": taken.action}
            step["tool_calls"] = [
                {"tool_call_id": call, "function_name": _TOOL, "arguments": arguments}
            ]
        answer = {"content": taken.observation}
        if taken.action is not None:
            answer = {"source_call_id": call, **answer}
        step["observation"] = {"results": [answer]}
        step["extra"] = {"reward": taken.reward}
        facts = episode.facts[turn] if episode.facts else {}
        counts = {name: facts[ours] for name, ours in _COUNTS.items() if ours in facts}
        if counts:
            step["metrics"] = counts
        steps.append(step)
    return {
        "schema_version": VERSION,
        "session_id": f"{episode.task_id}/{episode.sample}",
        "agent": {
            "name": "eto-gym",
            "version": eto_gym.__version__,
            "model_name": episode.policy,
        },
        "steps": steps,
        "final_metrics": _totals(episode),
        "extra": {"eto_gym": episode.to_json()},
    }


def from_atif(value: Any) -> Trajectory:
    """Read a trajectory that `to_atif` wrote.

    Raises:
        DataError: It is ATIF of another agent, or none.
    """
    extra = value.get("extra") if isinstance(value, Mapping) else None
    own = extra.get("eto_gym") if isinstance(extra, Mapping) else None
    if own is None:
        raise DataError("expected an ATIF file with `extra.eto_gym`, which eto-gym writes")
    return Trajectory.from_json(json.loads(json.dumps(own)))


def _own(episode: Trajectory) -> Sequence[Any]:
    """Return the messages from the first reply of a step on."""
    replies = [i for i, m in enumerate(episode.messages) if m.role == "assistant"]
    if not episode.steps or len(replies) < len(episode.steps):
        return ()
    return episode.messages[replies[-len(episode.steps)] :]


def _step(steps: Sequence[Any], source: str, message: str) -> dict[str, Any]:
    return {"step_id": len(steps) + 1, "source": source, "message": message}


def _totals(episode: Trajectory) -> dict[str, Any]:
    totals: dict[str, Any] = {"total_steps": len(episode.steps)}
    for name, ours in _COUNTS.items():
        if ours in episode.usage:
            totals[f"total_{name}"] = episode.usage[ours]
    totals["extra"] = {
        "reward": episode.reward,
        "success": episode.success,
        "outcome": episode.outcome,
        "error": episode.error,
    }
    return totals
