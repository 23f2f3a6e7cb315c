"""Step pairs by exact costs to go, beside those of rollouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from eto_gym.agents.policies import expert_policy
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import UnknownNameError
from eto_gym.trainers.data.exact_steps import exact_step_pairs
from eto_gym.trainers.data.experience import gather_experience
from eto_gym.trainers.data.steps import (
    ExpertPath,
    find_alternatives,
    make_step_pairs,
    plan_branches,
    plan_values,
    repeat_expert,
)
from eto_gym.trainers.settings.base import SettingsError, deciding
from eto_gym.trainers.settings.data import ExperienceSettings, StepSettings
from eto_gym.trajectories import ErrorKind, Trajectory
from eto_gym.trajectories.eto_experts import POLICY
from tests.toy import CORRIDOR, CorridorEnv, make_corridor


class Guesser:
    """Says go, open, or nothing, by its seed and the place in the conversation."""

    name = "guesser"
    asked = 0

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        self.asked += len(conversations)
        words = ("Action: go", "Action: open", "I wait.")
        return [PolicyReply(words[(c.seed // 7 + c.position) % 3]) for c in conversations]

    def release(self, key: str) -> None:
        pass


@pytest.fixture
def env() -> ConversationEnv:
    return ConversationEnv(make_corridor(), prompt_style="none")


def paths_of(env: ConversationEnv, tasks: int) -> list[ExpertPath]:
    spec = RolloutSpec(CORRIDOR, expert_policy, prompt_style="none")
    ids = make_corridor().unwrapped.task_set.ids[:tasks]  # type: ignore[attr-defined]
    repeated = [repeat_expert(env, expert) for expert in collect(spec, plan_episodes(ids))]
    return [path for path in repeated if path is not None]


def test_the_better_step_is_the_one_that_leaves_fewer(env: ConversationEnv) -> None:
    paths, policy = paths_of(env, 8), Guesser()
    settings = StepSettings(rollouts=6, alternatives=3, reward="exact")
    pairs, report = exact_step_pairs(env, paths, policy, settings, seed=0)
    assert policy.asked == 6 * report.steps, "one reply for each try, and nothing is played on"
    assert report.pairs == len(pairs) == report.expert_chosen > 8
    for pair in pairs:
        assert len(pair.chosen) == len(pair.rejected) == 1
        step, goal = pair.info["step"], int(pair.task_id.split("/")[0][-1])
        assert pair.chosen[0].content.endswith("go" if step < goal else "open")
        assert pair.chosen[0].train
        assert pair.rejected[0].train
        lost = pair.rejected[0].content == "Action: open" or step == goal == pair.info["step"]
        if pair.rejected[0].content == "I wait.":
            assert pair.info["chosen_value"] - pair.info["rejected_value"] == 1
        else:
            assert lost


def test_a_group_of_steps_is_compared_as_one(env: ConversationEnv) -> None:
    """Exactly and by rollouts: the same moments, and the replies of two steps on each side."""
    paths = [path for path in paths_of(env, 8) if len(path.states) >= 3]
    settings = StepSettings(rollouts=12, alternatives=3, size=2, extent="step", reward="exact")
    exact, report = exact_step_pairs(env, paths, Guesser(), settings, seed=0)
    assert report.steps == sum(-(-len(path.states) // 2) for path in paths)
    rollouts = RolloutSpec(CORRIDOR, Guesser, prompt_style="none")
    plan = plan_branches(paths, settings, seed=0)
    assert {episode.sample // 12 % 2 for episode in plan} == {0}
    branches = collect(rollouts, plan)
    values = collect(rollouts, plan_values(env, find_alternatives(paths, branches, settings),
                                           settings, seed=0))  # fmt: skip
    estimated, _ = make_step_pairs(paths, branches, values, settings)
    for pairs in (exact, estimated):
        assert {p.info["step"] % 2 for p in pairs} == {0}
        for pair in pairs:
            place = next(path for path in paths if path.task_id == pair.task_id)
            left = len(place.states) - pair.info["step"]
            sides = [pair.chosen, pair.rejected]
            said = [sum(m.role == "assistant" for m in side) for side in sides]
            by_expert = sides[pair.info["chosen_policy"] != "expert"]
            assert sum(m.role == "assistant" for m in by_expert) == min(2, left)
            assert max(said) <= 2
            assert all(m.train for side in sides for m in side if m.role == "assistant")
            assert all(side[-1].role == "assistant" for side in sides)
    assert any(len(p.rejected) == 3 for p in exact)
    by_key = {(p.task_id, p.info["step"], p.rejected): p for p in exact}
    both = [p for p in estimated if (p.task_id, p.info["step"], p.rejected) in by_key]
    assert both, "one and the same group is found by both"


def test_they_are_the_pairs_of_many_rollouts(env: ConversationEnv) -> None:
    settings = StepSettings(rollouts=12, extent="step", alternatives=2)
    paths = paths_of(env, 4)
    spec = RolloutSpec(CORRIDOR, Guesser, prompt_style="none")
    branches = collect(spec, plan_branches(paths, settings, seed=0))
    by_rollouts, _ = make_step_pairs(paths, branches, [], settings)
    exact, _ = exact_step_pairs(env, paths, Guesser(), settings, seed=0)

    def names(pairs: Any) -> set[tuple[str, int, str, str]]:
        return {
            (p.task_id, p.info["step"], p.chosen[0].content, p.rejected[0].content) for p in pairs
        }

    opened = {name for name in names(exact) if name[3] == "Action: open"}
    assert opened
    # The others are below the noise of twelve rollouts.
    assert len(opened & names(by_rollouts)) > len(opened) / 2


def test_an_environment_without_counts_is_refused(
    env: ConversationEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = paths_of(env, 2)
    monkeypatch.setattr(CorridorEnv, "cost_to_go", lambda self: None)
    with pytest.raises(SettingsError, match="tells no cost_to_go"):
        exact_step_pairs(env, paths, Guesser(), StepSettings(reward="exact"), seed=0)
    with pytest.raises(UnknownNameError, match="exact"):
        StepSettings(reward="exakt")
    assert "reward" not in deciding(StepSettings())


class Opener(Guesser):
    """Opens wherever it stands."""

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        return [PolicyReply("Action: open") for _ in conversations]


class Walker(Guesser):
    """Walks on."""

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        return [PolicyReply("Action: go") for _ in conversations]


class Looker(Guesser):
    """Looks, which changes nothing."""

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        return [PolicyReply("Action: look") for _ in conversations]


def given_path(env: ConversationEnv, task: str, replies: Sequence[str]) -> ExpertPath:
    """Return the path of a demonstration that says these replies, however it ends."""
    env.reset(options={"task": task})
    earned = sum(env.step(reply)[1] for reply in replies)
    expert = Trajectory(
        task_id=task,
        task_type="",
        messages=env.conversation,
        steps=env.steps,
        outcome=env.result().outcome or "truncated",
        reward=earned,
        success=env.result().success,
        policy=POLICY,
        env={},
    )
    path = repeat_expert(env, expert)
    assert path is not None
    return path


@pytest.mark.parametrize("size", [1, 2])
def test_a_demonstration_that_failed_ends_with_no_success(env: ConversationEnv, size: int) -> None:
    """Door 0 is opened where door 2 is wanted: walking on is better, by what is really left."""
    settings = StepSettings(rollouts=1, reward="exact", size=size)
    path = given_path(env, "door-2/2", ["Action: open"])
    pairs, report = exact_step_pairs(env, [path], Walker(), settings, seed=0)
    assert [(p.info["chosen_policy"], p.info["chosen_value"]) for p in pairs] == [
        ("agent", -(3 - size))
    ]
    assert pairs[0].info["rejected_value"] < -1000
    assert report.agent_chosen == 1
    # At door 0 itself the same reply is the best there is.
    path = given_path(env, "door-0/0", ["Action: open"])
    pairs, _ = exact_step_pairs(env, [path], Looker(), settings, seed=0)
    assert [(p.info["chosen_policy"], p.info["chosen_value"]) for p in pairs] == [("expert", 0)]


def test_a_demonstration_that_stops_halfway_is_worth_what_is_left(env: ConversationEnv) -> None:
    path = given_path(env, "door-2/2", ["Action: go"])
    settings = StepSettings(rollouts=1, reward="exact")
    (pair,), _ = exact_step_pairs(env, [path], Opener(), settings, seed=0)
    assert (pair.info["chosen_policy"], pair.info["chosen_value"]) == ("expert", -2)


def test_an_episode_that_is_cut_off_is_lost_however_near_success(env: ConversationEnv) -> None:
    """The corridor has eight replies: after them, being one step away is worth nothing."""
    path = given_path(env, "door-0/0", ["Action: wait"] * 7 + ["Action: open"])
    settings = StepSettings(rollouts=1, reward="exact")
    pairs, _ = exact_step_pairs(env, [path], Looker(), settings, seed=0)
    last = next(pair for pair in pairs if pair.info["step"] == 7)
    assert (last.info["chosen_policy"], last.info["chosen_value"]) == ("expert", 0)
    assert last.info["rejected_value"] < -1000
    path = given_path(env, "door-0/0", ["Action: wait"] * 8)
    pairs, _ = exact_step_pairs(env, [path], Opener(), settings, seed=0)
    last = next(pair for pair in pairs if pair.info["step"] == 7)
    assert (last.info["chosen_policy"], last.info["chosen_value"]) == ("agent", 0)
    assert last.info["rejected_value"] < -1000


class Flaky(Guesser):
    """Gives no reply to two of three conversations: it fails, or has no room."""

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        kinds: tuple[ErrorKind | None, ...] = (None, "policy", "context")
        errors = [kinds[c.seed // 7 % 3] for c in conversations]
        return [PolicyReply("" if e else "Action: open", error=e) for e in errors]


def test_replies_that_were_not_given_are_counted(env: ConversationEnv) -> None:
    paths = paths_of(env, 8)
    settings = StepSettings(rollouts=6, reward="exact")
    _, exact = exact_step_pairs(env, paths, Flaky(), settings, seed=0)
    assert exact.asked == 6 * exact.steps
    assert set(exact.errors) == {"policy", "context"}
    assert min(exact.errors.values()) > 0
    _, tried = gather_experience(env, paths, Flaky(), ExperienceSettings(tries=6), seed=0)
    assert (tried.asked, tried.errors) == (exact.asked, exact.errors)
    given = tried.asked - sum(tried.errors.values())
    assert tried.alternatives + sum(tried.skipped.values()) == given
    plan = plan_branches(paths, settings, seed=0)
    branches = collect(RolloutSpec(CORRIDOR, Flaky, prompt_style="none"), plan)
    _, played = make_step_pairs(paths, branches, [], settings)
    assert played.asked == len(branches)
    assert sum(played.errors.values()) == sum(t.error is not None for t in branches) > 0
    assert json.loads(json.dumps(played.to_json()))["errors"] == dict(played.errors)
