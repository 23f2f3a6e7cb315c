"""Early experience: what other actions lead to, at every step of the experts."""

from __future__ import annotations

import pytest

from eto_gym.agents.policies import random_policy
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import UnknownNameError
from eto_gym.snapshot import set_state
from eto_gym.trainers.data.experience import QUESTION, gather_experience
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import ExperienceSettings
from tests.toy import make_corridor
from tests.trainers.data.test_exact_steps import Guesser, paths_of


@pytest.mark.parametrize("history", ["full", "last:1"])
def test_each_other_action_is_played_once_at_each_step(history: str) -> None:
    env = ConversationEnv(make_corridor(), prompt_style="none", history=history)
    paths = paths_of(env, 8)
    found, report = gather_experience(env, paths, Guesser(), ExperienceSettings(tries=6), seed=0)
    assert report.steps == sum(len(path.states) for path in paths)
    assert report.alternatives == len(found) > 8
    assert len(found) + sum(report.skipped.values()) == 6 * report.steps
    assert set(report.skipped) == {"no_action", "same_action"}
    assert len({trajectory.key for trajectory in found}) == len(found)
    prompts = set()
    for trajectory in found:
        *read, reply, question, answer = trajectory.messages
        assert question.content == QUESTION
        assert [m.train for m in trajectory.messages] == [False] * (len(read) + 2) + [True]
        assert answer.role == reply.role == "assistant"
        (step,) = trajectory.steps
        assert reply.content == f"Action: {step.action}"
        # What is to be predicted is what the environment says, put back to the state that was read.
        path, number = next(
            (path, i)
            for path in paths
            for i, turn in enumerate(path.turns)
            if path.task_id == trajectory.task_id and path.messages[turn - 1] == read[-1]
        )
        assert step.action != path.actions[number]
        set_state(env, path.states[number])
        assert env.step(reply.content)[0] == answer.content
        assert trajectory.as_sampled() == [trajectory.messages]
        prompts.add((trajectory.task_id, number, step.action))
    assert len(prompts) == len(found), "an action twice at one step"


def test_actions_at_random_are_admissible_ones_and_repeat_with_the_seed() -> None:
    env = ConversationEnv(make_corridor(admissible_actions=True), prompt_style="none")
    paths = paths_of(env, 8)
    runs = [
        gather_experience(env, paths, random_policy(), ExperienceSettings(tries=4), seed=seed)[0]
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert {t.steps[0].action for t in runs[0]} == {"go", "open"}
    assert any(t.outcome == "terminated" for t in runs[0]), "an end can be predicted too"


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'start'"):
        ExperienceSettings(source="starts")
    with pytest.raises(SettingsError, match="tries"):
        ExperienceSettings(tries=0)
