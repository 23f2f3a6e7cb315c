"""Logs of Inspect (https://inspect.aisi.org.uk), for `inspect view` and its analysis functions."""

from __future__ import annotations

import datetime
import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_gym.errors import DataError, require
from eto_gym.export.names import plain
from eto_gym.files import strict_json
from eto_gym.trajectories import Trajectory

_SCORER = "eto_gym"


def write_inspect(episodes: Sequence[Trajectory], folder: Path) -> None:
    """Write a log per benchmark and policy.

    Args:
        episodes: The trajectories; an episode that failed to run has an error and no score.
        folder: Is made; `inspect view --log-dir FOLDER` shows it.

    Raises:
        MissingDependencyError: `inspect-ai` is not installed.
    """
    require("inspect_ai", feature="--to inspect", extra="inspect")
    from inspect_ai.log import write_eval_log

    groups: dict[tuple[str, str], list[Trajectory]] = defaultdict(list)
    for episode in episodes:
        groups[str(episode.env.get("benchmark", "task")), episode.policy or "policy"].append(
            episode
        )
    folder.mkdir(parents=True)
    for number, ((benchmark, policy), items) in enumerate(sorted(groups.items()), start=1):
        path = folder / f"{number:03}_{plain(benchmark)}_{plain(policy)}.eval"
        write_eval_log(_log(benchmark, policy, items), str(path))


def trajectory_of(sample: Any) -> Trajectory:
    """Read a sample of such a log back.

    Args:
        sample: An `EvalSample`.

    Raises:
        DataError: It was not written here.
    """
    metadata = sample.metadata
    if not isinstance(metadata, Mapping) or "eto_gym" not in metadata:
        raise DataError("expected a sample with the metadata `eto_gym`")
    return Trajectory.from_json(json.loads(metadata["eto_gym"]))


def _log(benchmark: str, policy: str, episodes: Sequence[Trajectory]) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats

    now = datetime.datetime.now(datetime.UTC).isoformat()
    ids = list(dict.fromkeys(episode.task_id for episode in episodes))
    told = json.dumps([episode.key for episode in episodes]).encode()
    name = hashlib.sha256(told).hexdigest()[:22]
    scored = [episode for episode in episodes if episode.scored]
    spec = EvalSpec(
        eval_id=name,
        run_id=name,
        created=now,
        task=benchmark,
        task_id=name,
        dataset=EvalDataset(name=benchmark, samples=len(ids), sample_ids=ids),
        model=policy if "/" in policy else f"eto-gym/{policy}",
        config=EvalConfig(epochs=max(episode.sample for episode in episodes) + 1),
        metadata={"card": episodes[0].env},
    )
    return EvalLog(
        status="success",
        eval=spec,
        results=EvalResults(
            total_samples=len(episodes),
            completed_samples=sum(not episode.failed_to_run for episode in episodes),
            scores=_scores(scored),
        ),
        stats=EvalStats(started_at=now, completed_at=now),
        samples=[_sample(episode, policy) for episode in episodes],
    )


def _scores(episodes: Sequence[Trajectory]) -> list[Any]:
    """Return the mean of success and of reward over the episodes that have a score."""
    from inspect_ai.log import EvalMetric, EvalScore

    if not episodes:
        return []
    values = {
        "success": [float(episode.success) for episode in episodes],
        "reward": [episode.reward for episode in episodes],
    }
    return [
        EvalScore(
            name=name,
            scorer=_SCORER,
            scored_samples=len(episodes),
            metrics={"mean": EvalMetric(name="mean", value=statistics.fmean(each))},
        )
        for name, each in values.items()
    ]


def _sample(episode: Trajectory, policy: str) -> Any:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    messages = [_message(m.role, m.content) for m in episode.messages]
    replies = [i for i, m in enumerate(episode.messages) if m.role == "assistant"]
    first = (
        replies[-len(episode.steps)] if 0 < len(episode.steps) <= len(replies) else len(messages)
    )
    if episode.steps and episode.steps[-1].observation:
        messages.append(_message("user", episode.steps[-1].observation))
    last = episode.messages[replies[-1]].content if replies else ""
    error = None
    if episode.failed_to_run:
        words = f"the episode failed to run: {episode.error}"
        error = EvalError(message=words, traceback=words, traceback_ansi=words)
    scores = {
        "success": Score(value=float(episode.success), answer=last[-200:]),
        "reward": Score(value=episode.reward),
    }
    return EvalSample(
        id=episode.task_id,
        epoch=episode.sample + 1,
        input=messages[:first],
        target="",
        messages=messages,
        output=ModelOutput.from_content(policy, last),
        scores=scores if episode.scored else None,
        metadata={
            "task_type": episode.task_type,
            "outcome": episode.outcome,
            "steps": len(episode.steps),
            "eto_gym": strict_json(episode.to_json()),
        },
        error=error,
    )


def _message(role: str, content: str) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    return kinds[role](content=content)
