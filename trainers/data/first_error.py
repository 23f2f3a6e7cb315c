"""Where failures leave the path to success, told by exact costs to go.

A failure is repeated in the environment, which says before and after each reply how many steps
success is away. A reply that brings it no nearer, or after which no way is known any more, is an
error: the first one, or the one after which the episode never came as near again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eto_gym.conversation import ConversationEnv
from eto_gym.env import text_env
from eto_gym.prompt import Message
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trajectories import Trajectory


class Errors(NamedTuple):
    """Steps, counted from 0, of a failure: its first error, and the one that it never mended."""

    first: int
    final: int


def find_errors(
    env: ConversationEnv, agent: Iterable[Trajectory]
) -> dict[tuple[str, int], Errors | None]:
    """Return the errors of every failure by its task and sample; None where they are not known.

    They are not known where the environment answers otherwise than it did, where there are fewer
    replies than steps, or where it tells too few costs. An episode that ends without success was
    lost by its last step at the latest.

    Args:
        env: Plays the tasks as they were played, with the same history.
        agent: The agent's trajectories; successes and errors of running are left out.

    Raises:
        SettingsError: The environment tells no cost of any state.
    """
    found: dict[tuple[str, int], Errors | None] = {}
    known = False
    for trajectory in agent:
        if not trajectory.scored or trajectory.success or not trajectory.steps:
            continue
        left = _repeat(env, trajectory)
        known = known or left is None or any(steps is not None for steps in left)
        found[trajectory.key] = None if left is None else errors_of(left, _lost(trajectory))
    if found and not known:
        raise SettingsError(
            f"{type(text_env(env)).__name__} tells no cost_to_go, by which errors are found: set "
            "pairing.cut to 'none'"
        )
    return found


def errors_of(left: Sequence[int | None], lost: bool) -> Errors | None:
    """Return the errors of an episode from the steps that were left before and after each reply.

    Args:
        left: One more than replies; None: not known.
        lost: The last reply ended the episode, and nothing was left to be done.

    Example:
        >>> errors_of([3, 2, 3, 2, 2], lost=False)
        Errors(first=1, final=3)
    """
    replies = len(left) - 1
    first = replies - 1 if lost else None
    for step in range(replies):
        before, after = left[step], left[step + 1]
        if before is None:
            continue
        lost_way = after is None and not any(steps is not None for steps in left[step + 1 :])
        if lost_way or (after is not None and after >= before):
            first = step
            break
    if first is None:
        return None
    known = [(steps, place) for place, steps in enumerate(left) if steps is not None]
    if not known:
        return Errors(first, first)
    nearest = min(steps for steps, _ in known)
    last = max(place for steps, place in known if steps == nearest)
    # The reply after the last of the nearest states; where none follows, the last that was made.
    return Errors(first, max(first, min(last, replies - 1)))


def replies_of(trajectory: Trajectory) -> list[Message] | None:
    """Return the reply of each step, marked for training or not; None where replies are missing.

    The acknowledgement of the prompt and worked examples come before them, and are no steps.
    """
    replies = [m for m in trajectory.messages if m.role == "assistant"]
    before = len(replies) - len(trajectory.steps)
    return replies[before:] if before >= 0 else None


def _lost(trajectory: Trajectory) -> bool:
    return trajectory.outcome == "terminated"


def _repeat(env: ConversationEnv, trajectory: Trajectory) -> list[int | None] | None:
    """Repeat an episode; return the steps that were left, None where it goes otherwise."""
    replies = replies_of(trajectory)
    if replies is None:
        return None
    env.reset(options={"task": trajectory.task_id})
    left = [text_env(env).cost_to_go()]
    for reply, step in zip(replies, trajectory.steps, strict=True):
        *_, terminated, truncated, _ = env.step(reply.content)
        if env.steps[-1].observation != step.observation:
            return None
        left.append(text_env(env).cost_to_go())
        if terminated or truncated:
            break
    return left if len(left) == len(replies) + 1 else None
