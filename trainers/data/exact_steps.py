"""Step-level pairs without rollouts: a step is worth what `cost_to_go` says of where it leads.

The moments and the replies are those of `trainers.data.steps`: the agent is asked at each step of
an expert's episode. But where rollouts play on to the end, several times, to estimate what a step
is worth, here the environment counts the steps that are then left to success. The agent replies
once for each try, and nothing is played on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from eto_gym.agents.policy import Conversation, Policy
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.agents.rollout.policy_caller import PolicyCaller
from eto_gym.conversation import ConversationEnv, parse_reply
from eto_gym.env import text_env
from eto_gym.prompt import Message
from eto_gym.snapshot import set_state
from eto_gym.trainers.data.steps import Candidate, ExpertPath, Rest, StepReport, pairs_of_step
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
    without success is worth less than any other; one after which the number is not known is left
    out ("no_value"). Pairs hold the replies of the step alone.

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
    pairs: list[PreferencePair] = []
    known = False
    for path in paths:
        left = [*(_left(env, state) for state in path.states), 0]  # an expert's ends with success
        known = known or any(steps is not None for steps in left[:-1])
        tried = _replies(env, path, policy, settings, seed=seed, batch=batch)
        for step, replies in enumerate(tried):
            report.steps += 1
            others = []
            for reply in _others(path.actions[step], replies, settings.alternatives):
                report.alternatives += 1
                others.append(_of_agent(env, path, step, reply))
            if others:
                after = left[step + 1]
                expert = None if after is None else _candidate(-after, path, step, None)
                pairs += pairs_of_step(path, step, expert, others, settings, report)
    if paths and not known:
        raise SettingsError(
            f"{type(text_env(env)).__name__} tells no cost_to_go: set the step reward to 'rollouts'"
        )
    report.pairs = len(pairs)
    return pairs, report


def _left(env: ConversationEnv, state: dict[str, Any]) -> int | None:
    set_state(env, state)
    return text_env(env).cost_to_go()


def _replies(
    env: ConversationEnv,
    path: ExpertPath,
    policy: Policy,
    settings: StepSettings,
    *,
    seed: int,
    batch: int,
) -> list[list[str]]:
    """Return the agent's replies at every step; those that failed are left out."""
    caller = PolicyCaller(policy)
    count = settings.rollouts
    episodes = plan_episodes([path.task_id], samples=len(path.states) * count, seed=seed)
    replies: list[list[str]] = [[] for _ in path.states]
    for start in range(0, len(episodes), batch):
        some = episodes[start : start + batch]
        asked = [
            _conversation(env, path, episode.sample // count, episode.seed, episode.sample)
            for episode in some
        ]
        for episode, conversation, reply in zip(some, asked, caller.ask(asked), strict=True):
            policy.release(conversation.key)
            if reply.error is None:
                replies[episode.sample // count].append(reply.text)
    return replies


def _conversation(
    env: ConversationEnv, path: ExpertPath, step: int, seed: int, sample: int
) -> Conversation:
    set_state(env, path.states[step])
    return Conversation(
        key=f"{path.task_id}#{sample}",
        messages=env.prompt,
        seed=seed,
        info=env.info,
        whole=env.conversation,
    )


def _others(known: str | None, replies: Iterable[str], most: int) -> Iterator[str]:
    """Yield the first replies with other actions."""
    seen = {known}
    for text in replies:
        parsed = parse_reply(text)
        action = None if parsed is None else parsed.action
        if action not in seen and len(seen) <= most:
            seen.add(action)
            yield text


def _of_agent(env: ConversationEnv, path: ExpertPath, step: int, reply: str) -> Candidate | None:
    set_state(env, path.states[step])
    *_, terminated, truncated, _ = env.step(reply)
    left = text_env(env).cost_to_go()
    if left is None and not (terminated or truncated):
        return None
    return _candidate(_LOST if left is None else -left, path, step, reply)


def _candidate(value: float, path: ExpertPath, step: int, reply: str | None) -> Candidate:
    """Return a candidate: the expert's where there is no reply of the agent."""
    said = path.messages[path.turns[step]]
    message = said if reply is None else Message("assistant", reply, train=True)
    rest = Rest((message,), tuple(path.blocks[step : step + 1]))
    return Candidate(value, reply is None, rest, value, rest, value)
