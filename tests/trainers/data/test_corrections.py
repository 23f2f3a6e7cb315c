"""Corrections: the expert is asked in the agent's own failures, step by step."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import eto_gym  # noqa: F401 - registers the ids
from eto_gym.agents.policies import player_policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.conversation import ConversationEnv, parse_reply
from eto_gym.expert import Coach
from eto_gym.testing import text_env
from eto_gym.trainers.data.corrections import correct_failures
from eto_gym.trainers.data.history import read_again
from eto_gym.trainers.data.pairing import make_pairs
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trajectories import Trajectory
from tests.trainers.locks import KEYS, LOCKS_ID, play_locks
from tests.trainers.loops.test_eto import small_settings

SETTINGS = PairingSettings(contrast="correction")
HOUSE: dict[str, Any] = {"data": "builtin:small", "split": "train", "max_episode_steps": 8}


def _house() -> ConversationEnv:
    return ConversationEnv(gym.make("ETO/ALFWorld-v0", **HOUSE), prompt_style="one-shot")


@pytest.fixture(scope="module")
def wandering() -> Sequence[Trajectory]:
    """Episodes of players that run errands of their own."""
    spec = RolloutSpec(
        "ETO/ALFWorld-v0", player_policy, env_kwargs={**HOUSE, "admissible_actions": True}, slots=8
    )
    env = gym.make("ETO/ALFWorld-v0", **HOUSE)
    tasks = text_env(env).task_set.ids[:6]
    env.close()
    return [t for t in collect(spec, plan_episodes(tasks, samples=1)) if not t.success]


def test_both_replies_answer_the_agents_own_conversation(wandering: Sequence[Trajectory]) -> None:
    env = _house()
    pairs, report = correct_failures(env, wandering, SETTINGS)
    assert report.pairs == report.expert_chosen == len(pairs) > 6
    assert report.trajectories == len(wandering)
    steps = sum(t.step_count for t in wandering)
    assert report.pairs + sum(report.skipped.values()) == steps
    by_task = {t.task_id: t for t in wandering}
    for pair in pairs:
        played = by_task[pair.task_id].messages
        assert [(m.role, m.content) for m in pair.prompt] == [
            (m.role, m.content) for m in played[: len(pair.prompt)]
        ]
        assert pair.rejected == (played[len(pair.prompt)],)
        (said,), (instead,) = pair.rejected, pair.chosen
        replies = parse_reply(said.content), parse_reply(instead.content)
        assert replies[0] is not None
        assert replies[1] is not None
        assert replies[0].action != replies[1].action
        assert said.train
        assert instead.train
        assert not any(message.train for message in pair.prompt)


def test_replies_that_are_not_trained_are_played_and_not_paired(
    wandering: Sequence[Trajectory],
) -> None:
    env = _house()
    failure = wandering[0]
    every, _ = correct_failures(env, [failure], SETTINGS)
    start = every[0].info["step"]
    places = [i for i, m in enumerate(failure.messages) if m.role == "assistant"]
    place = places[len(places) - failure.step_count :][start]
    messages = list(failure.messages)
    messages[place] = dataclasses.replace(messages[place], train=False)
    pairs, report = correct_failures(
        env, [dataclasses.replace(failure, messages=tuple(messages))], SETTINGS
    )
    assert report.skipped["nothing_trained"] == 1
    assert report.pairs + sum(report.skipped.values()) == failure.step_count
    assert [p for p in pairs if p in every] == every[1:]
    assert start not in [pair.info["step"] for pair in pairs]
    # Where a reply is missing, nobody can say what was answered at which step.
    short = dataclasses.replace(failure, messages=failure.messages[: places[1]])
    assert len(short.steps) > sum(m.role == "assistant" for m in short.messages)
    pairs, report = correct_failures(env, [short], SETTINGS)
    assert (pairs, report.skipped) == ([], {"not_repeated": 1})


def test_with_a_bounded_history_the_prompt_is_what_was_read(
    wandering: Sequence[Trajectory],
) -> None:
    env = ConversationEnv(gym.make("ETO/ALFWorld-v0", **HOUSE), history="state:1")
    pairs, report = correct_failures(env, wandering, SETTINGS)
    assert not pairs
    assert report.skipped["different_history"] == len(wandering)
    # The scripted player reads no messages, so its play is the same with any history.
    short = [read_again(t, "state:1", env) for t in wandering]
    pairs, _ = correct_failures(env, short, SETTINGS)
    assert len(pairs) == len(correct_failures(_house(), wandering, SETTINGS)[0])
    trained = {
        (t.task_id, row[:-1], row[-1].content)
        for t in short
        for row in t.as_sampled()
        if sum(m.train for m in row) == 1
    }
    for pair in (pair for pair in pairs if pair.info["step"] >= 2):
        assert (pair.task_id, pair.prompt, pair.rejected[0].content) in trained
        assert len(pair.prompt) <= 5
        assert pair.history == "full", "the prompt is whole as it is"


def test_the_expert_finishes_from_where_the_agent_went_wrong(
    wandering: Sequence[Trajectory],
) -> None:
    """What is preferred is right: going on by such advice solves the task."""
    env = ConversationEnv(
        gym.make("ETO/ALFWorld-v0", **{**HOUSE, "max_episode_steps": 60}), prompt_style="none"
    )
    for failure in wandering:
        env.reset(options={"task": failure.task_id})
        expert = text_env(env).make_expert()
        assert isinstance(expert, Coach)
        expert.observe(None, env.conversation[-1].content)
        for step in failure.steps:
            env.step(f"Action: {step.action}")
            expert.observe(step.action, env.steps[-1].observation)
        while env.result().outcome is None and (advice := expert.advise()) is not None:
            env.step(str(advice))
            expert.observe(advice.action, env.steps[-1].observation)
        assert env.result().success, failure.task_id


@pytest.mark.parametrize(
    ("env_id", "kwargs", "actions"),
    [
        ("ETO/ALFWorld-v0", HOUSE, ["look", "inventory", "examine nothing", "look"]),
        (
            "ETO/WebShop-v0",
            {"split": "train", "max_episode_steps": 10},
            ["search[red mug]", "click[next >]", "click[b0nonsense]", "click[back to search]"],
        ),
        (LOCKS_ID, {}, ["use nothing"]),
    ],
)
def test_a_reply_without_an_action_changes_nothing_but_itself(
    env_id: str, kwargs: dict[str, Any], actions: list[str]
) -> None:
    env = ConversationEnv(gym.make(env_id, **kwargs), prompt_style="none")

    def advice(replies: list[str]) -> list[tuple[str, str]]:
        env.reset(options={"task": text_env(env).task_set[0].id})
        for reply in replies:
            env.step(reply)
        failure = Trajectory(
            task_id=text_env(env).task.id,
            task_type="",
            messages=env.conversation[: 2 * len(replies)],
            steps=env.steps,
            outcome="truncated",
            reward=0.0,
            success=False,
        )
        pairs, report = correct_failures(env, [failure], SETTINGS)
        assert report.skipped["no_advice"] == report.skipped["not_repeated"] == 0
        found = []
        for pair in pairs:
            advised, said = parse_reply(pair.chosen[0].content), pair.rejected[0].content
            assert advised is not None
            found.append((said, advised.action))
        return found

    replies = [f"Action: {action}" for action in actions]
    without = advice(replies)
    silent = advice([*replies[:-1], "I have no idea.", replies[-1]])
    assert [pair for pair in silent if pair[0] != "I have no idea."] == without
    assert len(silent) == len(without) + 1


def test_on_webshop_advice_is_to_go_on_and_not_to_begin_anew() -> None:
    """Asked anew at each page, the expert would search again wherever the agent has come to."""
    kwargs: dict[str, Any] = {"split": "train", "max_episode_steps": 10}
    spec = RolloutSpec(
        "ETO/WebShop-v0", player_policy, env_kwargs={**kwargs, "admissible_actions": True}, slots=8
    )
    env = ConversationEnv(gym.make("ETO/WebShop-v0", **kwargs), prompt_style="none")
    tasks = text_env(env).task_set.ids[:8]
    failures = [t for t in collect(spec, plan_episodes(tasks, samples=1)) if not t.success]
    pairs, report = correct_failures(env, failures, SETTINGS)
    assert len(pairs) > 2 * len(failures)
    assert not report.skipped["not_repeated"]
    advised = [parse_reply(pair.chosen[0].content) for pair in pairs]
    kinds = Counter(reply.action.partition("[")[0] for reply in advised if reply is not None)
    assert kinds["click"] > kinds["search"] > 0


def test_an_expert_that_cannot_watch_is_asked_anew_at_each_step() -> None:
    failures = [t for t in play_locks(player_policy, tasks=24) if not t.success]
    env = ConversationEnv(gym.make(LOCKS_ID), prompt_style="none")
    pairs, report = correct_failures(env, failures, SETTINGS)
    assert len(pairs) == len(failures)  # the wrong key ends an episode: one mistake in each
    assert report.skipped["same_action"] == sum(t.step_count - 1 for t in failures)
    for pair in pairs:
        colour = pair.prompt[-1].content.rstrip(".").split()[-1]
        assert pair.chosen[0].content.endswith(f"use {KEYS[colour]}")


def test_every_failure_is_paired_or_counted(wandering: Sequence[Trajectory]) -> None:
    env = _house()
    first = wandering[0]
    changed = dataclasses.replace(
        first, steps=(dataclasses.replace(first.steps[0], observation="?"), *first.steps[1:])
    )
    won = dataclasses.replace(first, success=True)
    lost = dataclasses.replace(first, outcome="error", error="policy")
    pairs, report = correct_failures(env, [changed, won, lost], SETTINGS)
    assert pairs == []
    assert dict(report.skipped) == {"not_repeated": 1, "success": 1, "agent_error": 1}
    few = dataclasses.replace(SETTINGS, max_pairs_per_task=1)
    pairs, report = correct_failures(env, wandering, few)
    assert len(pairs) == len({pair.task_id for pair in pairs})
    assert report.skipped["over_task_limit"] > 0


def test_trajectories_alone_cannot_be_corrected(wandering: Sequence[Trajectory]) -> None:
    with pytest.raises(SettingsError, match="asks the expert in the environment"):
        make_pairs(wandering, wandering, SETTINGS)


def test_a_loop_trains_on_corrections(tmp_path: Path) -> None:
    settings = small_settings(max_steps=4, pairing=SETTINGS, control=False, eval_tasks=2)
    report = ETOLoop(settings, tmp_path).run()
    stages = {stage["name"]: stage["result"] for stage in report["stages"]}
    assert stages["pairs-1"]["pairs"] == stages["pairs-1"]["expert_chosen"] > 0
    assert stages["eto-1"]["steps"] > 0
