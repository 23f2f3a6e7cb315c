"""Our environments as other frameworks' own: a verifiers taskset, and a task for Inspect.

Each module needs its framework installed, and imports it when the module is imported.
"""

from __future__ import annotations

from eto_gym.conversation import ConversationEnv, EpisodeResult
from eto_gym.errors import EngineError, EtoGymError
from eto_gym.tasks import TaskSet


def first_tasks(tasks: TaskSet, limit: int | None) -> TaskSet:
    """Return the first tasks of a split; all of them where there is no limit.

    Raises:
        EtoGymError: The limit is below 1: a slice would leave out the last tasks instead.
    """
    if limit is not None and limit < 1:
        raise EtoGymError(f"expected limit >= 1, or none for all tasks, got {limit}")
    return tasks[:limit]


def result_so_far(env: ConversationEnv) -> EpisodeResult:
    """Return what an episode has come to.

    Raises:
        EngineError: The engine failed: the episode has no score, and 0 would be a wrong one.
    """
    result = env.result()
    if result.outcome == "error":
        raise EngineError("the engine failed in the middle of the episode, which has no score")
    return result
