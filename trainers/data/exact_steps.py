"""Step-level pairs without rollouts: a step is worth what `cost_to_go` says of where it leads.

The moments and the replies are those of `trainers.data.steps`: the agent is asked at each step of
an expert's episode. But where rollouts play on to the end, several times, to estimate what a step
is worth, here the environment counts the steps that are then left to success. The agent replies
once for each try (or as often as a group of steps has replies), and nothing is played on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from eto_gym.agents.policy import Conversation, Policy
from eto_gym.agents.rollout.policy_caller import PolicyCaller
from eto_gym.conversation import ConversationEnv, parse_reply
from eto_gym.env import text_env
from eto_gym.snapshot import get_state, set_state
from eto_gym.trainers.data.steps import (
    Candidate,
    ExpertPath,
    Rest,
    StepReport,
    pairs_of_step,
    plan_branches,
)
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import StepSettings
from eto_gym.trajectories.pairs import PreferencePair

_LOST = -1e6
"""What a step is worth after which success is out of reach."""


def exact_step_pairs(
    env: ConversationEnv,
    paths: Sequence[ExpertPath],
    policy: Policy,
    settings: StepSettings,
    *,
    seed: int,
    batch: int = 64,
) -> tuple[list[PreferencePair], StepReport]:
    """Pair, at every step of the experts, the best candidate with each that is worse.

    A step is worth minus the number of steps that are left after it. One that ends an episode
    without success is worth less than any other, also where it is the expert's; one after which the
    number is not known is left out ("no_value"). Pairs hold the replies of the step alone.

    Args:
        env: Plays the tasks as they were played, with the same history.
        paths: The experts' episodes.
        policy: Asked for other replies, `settings.rollouts` times at each step.
        settings: How many alternatives are looked for, and by how much they must differ.
        seed: Seed of the agent's sampling, as of the rollouts.
        batch: Conversations that the policy answers at a time.

    Returns:
        The pairs, in the order of tasks and steps, and the report.

    Raises:
        SettingsError: The environment knows no `cost_to_go` of any state of the experts.
    """
    report = StepReport(experts=len(paths))
    settings = replace(settings, extent="step")
    size = settings.size
    pairs: list[PreferencePair] = []
    known = False
    for path in paths:
        starts = range(0, len(path.states), size)
        worth = [_value_at(env, path.states[step]) for step in starts]
        known = known or any(value is not None for value in worth)
        worth.append(_value_after(env, path, starts[-1], _replies(path, starts[-1])))
        tried, asked, errors = try_steps(env, path, policy, settings, seed=seed, batch=batch)
        report.asked += asked
        report.errors += errors
        for number, step in enumerate(starts):
            report.steps += 1
            others = []
            for replies in _others(path.actions[step : step + size], tried[step], settings):
                report.alternatives += 1
                others.append(_of_agent(env, path, step, replies))
            if others:
                after = worth[number + 1]
                expert = None if after is None else _of_expert(after, path, step, size)
                pairs += pairs_of_step(path, step, expert, others, settings, report)
    if paths and not known:
        raise SettingsError(
            f"{type(text_env(env)).__name__} tells no cost_to_go: set the step reward to 'rollouts'"
        )
    report.pairs = len(pairs)
    return pairs, report


def _value_at(env: ConversationEnv, state: dict[str, Any]) -> float | None:
    set_state(env, state)
    return _value(env)


def _value_after(
    env: ConversationEnv, path: ExpertPath, step: int, replies: Iterable[str]
) -> float | None:
    """Return what the moment is worth to which replies lead, given before a step of a path."""
    set_state(env, path.states[step])
    for reply in replies:
        env.step(reply)
    return _value(env)


def _value(env: ConversationEnv) -> float | None:
    """Return what the present moment is worth, the same whoever led there; None: not known."""
    result = env.result()
    if result.outcome == "error":
        return None
    if result.outcome is not None:
        return 0.0 if result.success else _LOST
    left = text_env(env).cost_to_go()
    return None if left is None else -float(left)


def _replies(path: ExpertPath, step: int) -> list[str]:
    """Return the expert's replies from a step on."""
    return [path.messages[turn].content for turn in path.turns[step:]]


class Tries(NamedTuple):
    """What a policy did before every step of a path.

    Attributes:
        replies: Step -> the replies of each try, in the order of their samples; errors are left
            out.
        asked: Replies that were asked for.
        errors: Kind of error -> replies that were not given because of it.
    """

    replies: dict[int, list[tuple[str, ...]]]
    asked: int
    errors: Counter[str]


@dataclass(slots=True)
class _Try:
    """The agent's replies from a step on, and where they have led."""

    step: int
    seed: int
    sample: int
    state: dict[str, Any]
    replies: list[str]
    failed: bool = False
    ended: bool = False


def try_steps(
    env: ConversationEnv,
    path: ExpertPath,
    policy: Policy,
    settings: StepSettings,
    *,
    seed: int,
    batch: int,
) -> Tries:
    """Ask for `rollouts` tries of `size` replies before every step of a path."""
    count = settings.rollouts
    tries = [
        _Try(step, episode.seed, episode.sample, path.states[step], [])
        for episode in plan_branches([path], settings, seed=seed)
        for step in [episode.sample // count]
    ]
    caller, asked_for, errors = PolicyCaller(policy), 0, Counter[str]()
    for start in range(0, len(tries), batch):
        some = tries[start : start + batch]
        for turn in range(settings.size):
            going = [one for one in some if not (one.failed or one.ended)]
            asked = [_conversation(env, path, one) for one in going]
            asked_for += len(asked)
            for one, conversation, reply in zip(going, asked, caller.ask(asked), strict=True):
                policy.release(conversation.key)
                if reply.error is not None:
                    one.failed = True
                    errors[reply.error] += 1
                else:
                    one.replies.append(reply.text)
                    if turn + 1 < settings.size:
                        _go_on(env, one)
    found: dict[int, list[tuple[str, ...]]] = {one.step: [] for one in tries}
    for one in tries:
        if not one.failed:
            found[one.step].append(tuple(one.replies))
    return Tries(found, asked_for, errors)


def _go_on(env: ConversationEnv, one: _Try) -> None:
    set_state(env, one.state)
    *_, terminated, truncated, _ = env.step(one.replies[-1])
    one.ended = terminated or truncated
    one.state = get_state(env)


def _conversation(env: ConversationEnv, path: ExpertPath, one: _Try) -> Conversation:
    set_state(env, one.state)
    return Conversation(
        key=f"{path.task_id}#{one.sample}",
        messages=env.prompt,
        seed=one.seed,
        info=env.info,
        whole=env.conversation,
    )


def _others(
    known: tuple[str | None, ...], tries: Iterable[tuple[str, ...]], settings: StepSettings
) -> Iterator[tuple[str, ...]]:
    """Yield the first tries with other actions."""
    seen = {known}
    for replies in tries:
        parsed = [parse_reply(text) for text in replies]
        actions = tuple(None if one is None else one.action for one in parsed)
        if actions not in seen and len(seen) <= settings.alternatives:
            seen.add(actions)
            yield replies


def _of_agent(
    env: ConversationEnv, path: ExpertPath, step: int, replies: Sequence[str]
) -> Candidate | None:
    value = _value_after(env, path, step, replies)
    if value is None:
        return None
    start = path.turns[step]
    messages = env.conversation[start : start + 2 * len(replies) - 1]
    rest = Rest(tuple(messages), tuple(env.states[step : step + len(replies)]))
    return Candidate(value, False, rest, value, rest, value)


def _of_expert(value: float, path: ExpertPath, step: int, size: int) -> Candidate:
    start = path.turns[step]
    messages = path.messages[start : start + 2 * size - 1]
    rest = Rest(tuple(messages), tuple(path.blocks[step : step + size]))
    return Candidate(value, True, rest, value, rest, value)
