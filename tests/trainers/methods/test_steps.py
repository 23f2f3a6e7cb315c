from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym import get_state
from eto_gym.agents.policies import expert_policy, random_policy
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import Episode, Rollout, plan_episodes
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import UnknownNameError
from eto_gym.history import bounded
from eto_gym.trainers.data.steps import (
    ExpertPath,
    StepReport,
    find_alternatives,
    make_step_pairs,
    plan_branches,
    plan_values,
    repeat_expert,
)
from eto_gym.trainers.loops.step_dpo import StepDPOLoop
from eto_gym.trainers.loops.step_stage import BRANCHES
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import StepSettings
from eto_gym.trainers.settings.loops import StepDPOSettings
from eto_gym.trainers.settings.methods import DPOSettings, SFTSettings
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.pairs import PreferencePair
from tests.toy import CORRIDOR, make_corridor
from tests.trainers.locks import GENTLE, MUON, PLAY, assert_learnt


class Walker:
    """Says the same words at every turn."""

    def __init__(self, *words: str) -> None:
        self.name = "walker"
        self.words = words

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        return [
            PolicyReply(self.words[(c.seed + len(c.messages)) % len(self.words)])
            for c in conversations
        ]

    def release(self, key: str) -> None:
        pass


def test_an_episode_goes_on_from_a_snapshot() -> None:
    env = ConversationEnv(make_corridor(), prompt_style="none")
    env.reset(options={"task": "door-2/2"})
    env.step("Action: go")
    env.step("Action: go")
    env.step("I do not know.")
    state = get_state(env)
    rollout = Rollout(make_corridor, Walker("Action: go", "Action: open"), prompt_style="none")
    seen = list(rollout.play([Episode("door-2/2", n, 1 - n, state) for n in (0, 1)]))
    by_sample = {t.sample: t for t in seen}
    # One of the two opens the door that it stands before, which is right; one walks on for ever.
    assert [t.success for _, t in sorted(by_sample.items())] == [False, True]
    for trajectory in seen:
        assert trajectory.messages[:7] == env.conversation
        assert [s.action for s in trajectory.steps][:3] == ["go", "go", None]
        assert trajectory.reward == sum(s.reward for s in trajectory.steps)
    assert by_sample[1].steps[-1].reward == 1.0
    assert len(env.steps) == 3  # the snapshot is not touched by what is played from it


def _experts(tasks: int) -> list[Trajectory]:
    spec = RolloutSpec(CORRIDOR, expert_policy, prompt_style="none")
    ids = make_corridor().unwrapped.task_set.ids[:tasks]  # type: ignore[attr-defined]
    return collect(spec, plan_episodes(ids))


def _play(
    chosen: StepSettings, experts: list[Trajectory], make_policy: Any
) -> tuple[list[ExpertPath], list[Trajectory], list[Trajectory]]:
    spec = RolloutSpec(
        CORRIDOR, make_policy, env_kwargs={"admissible_actions": True}, prompt_style="none"
    )
    env = ConversationEnv(spec.make_env(), prompt_style="none")
    paths = [path for expert in experts if (path := repeat_expert(env, expert)) is not None]
    branches = collect(spec, plan_branches(paths, chosen, seed=0))
    found = find_alternatives(paths, branches, chosen)
    values = collect(spec, plan_values(env, found, chosen, seed=0))
    return paths, branches, values


def _pairs(
    chosen: StepSettings, make_policy: Any = random_policy, tasks: int = 8
) -> tuple[list[PreferencePair], StepReport]:
    return make_step_pairs(*_play(chosen, _experts(tasks), make_policy), chosen)


@pytest.mark.parametrize("extent", ["rest", "step"])
def test_pairs_of_a_bounded_history_hold_what_was_read(extent: str) -> None:
    chosen = StepSettings(rollouts=8, extent=extent)
    spec = RolloutSpec(
        CORRIDOR,
        random_policy,
        env_kwargs={"admissible_actions": True},
        prompt_style="none",
        history="last:1",
    )
    env = ConversationEnv(spec.make_env(), prompt_style="none", history="last:1")
    paths = [path for expert in _experts(4) if (path := repeat_expert(env, expert)) is not None]
    branches = collect(spec, plan_branches(paths, chosen, seed=0))
    assert {t.history for t in branches} == {"last:1"}
    pairs, _ = make_step_pairs(paths, branches, [], chosen)
    later = [pair for pair in pairs if pair.info["step"] >= 2]
    assert later
    for pair in later:
        assert (pair.history, pair.head) == ("last:1", 0)
        read = [(m.role, m.content) for m in bounded(pair.prompt, 0, "last:1")]
        for side, rows in zip((pair.chosen, pair.rejected), pair.as_sampled(), strict=True):
            assert [(m.role, m.content) for m in rows[0][:-1]] == read
            assert sum(m.train for row in rows for m in row) == sum(m.train for m in side)


def test_an_expert_is_repeated_or_refused() -> None:
    env = ConversationEnv(make_corridor(), prompt_style="none")
    (expert,) = _experts(3)[2:]
    path = repeat_expert(env, expert)
    assert path is not None
    assert path.messages == expert.messages
    assert path.actions == ("go", "go", "open")
    assert [path.messages[i].role for i in path.turns] == ["assistant"] * 3
    from dataclasses import replace

    assert repeat_expert(env, replace(expert, reward=0.5)) is None
    longer = replace(expert, messages=(*expert.messages, expert.messages[-1]))
    assert repeat_expert(env, longer) is None


def test_a_reply_that_is_not_to_be_trained_on_is_repeated_too() -> None:
    from dataclasses import replace

    env = ConversationEnv(make_corridor(), prompt_style="none")
    (expert,) = _experts(3)[2:]
    unmarked = replace(expert.messages[1], train=False)
    marked = replace(expert, messages=(expert.messages[0], unmarked, *expert.messages[2:]))
    path = repeat_expert(env, marked)
    assert path is not None
    assert path.actions == ("go", "go", "open")
    assert [path.messages[i].train for i in path.turns] == [False, True, True]


def test_values_are_what_episodes_earn_on_average() -> None:
    """Against an exact computation: a random walker's value from every door."""
    chosen = StepSettings(rollouts=100, extent="step", threshold=0.3)
    pairs, report = _pairs(chosen, tasks=4)

    # The walker opens with chance 1/2 at doors 0..2, and always at the last.
    def worth(door: int, goal: int) -> float:
        opened = 1.0 if door == goal else -0.5
        return opened if door == 3 else 0.5 * opened + 0.5 * worth(door + 1, goal)

    assert report.experts == 4
    assert report.steps == 1 + 2 + 3 + 4
    for pair in pairs:
        goal = int(pair.task_id[5])
        door = pair.info["step"]
        go_on = worth(door + 1, goal) if door < 3 else None
        opened = 1.0 if door == goal else -0.5
        better, worse = (opened, go_on) if door == goal else (go_on, opened)
        assert better is not None
        assert worse is not None
        assert pair.info["chosen_value"] == pytest.approx(better, abs=0.2)
        assert pair.info["rejected_value"] == pytest.approx(worse, abs=0.2)
        assert len(pair.chosen) == len(pair.rejected) == 1
        assert not any(message.train for message in pair.prompt)
    assert report.expert_chosen == len(pairs) > 3


def test_a_better_step_of_the_agent_is_chosen() -> None:
    """An expert that opens the wrong door is corrected at that step."""
    from dataclasses import replace

    env = ConversationEnv(make_corridor(), prompt_style="none")
    env.reset(options={"task": "door-1/1"})
    env.step("Action: open")
    wrong = replace(_experts(2)[1], messages=env.conversation, steps=env.steps, reward=-0.5)
    chosen = StepSettings(rollouts=8)
    (pair,), report = make_step_pairs(*_play(chosen, [wrong], random_policy), chosen)
    assert report.agent_chosen == 1
    assert "Action: go" in pair.chosen[0].content
    assert "Action: open" in pair.chosen[2].content  # its best episode opens the right door
    assert pair.rejected == env.conversation[1:]
    assert pair.info["chosen_value"] > pair.info["rejected_value"] == -0.5


@pytest.mark.parametrize(("error", "pairs"), [("context", 1), ("timeout", 0)])
def test_who_runs_out_of_room_is_worth_what_was_earned(error: Any, pairs: int) -> None:
    class Limited(Walker):
        """Walks on until the conversation has no room for another reply."""

        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            return [
                reply if len(c.messages) < room else PolicyReply("", error=error)
                for c, reply in zip(conversations, super().act(conversations), strict=True)
            ]

    chosen = StepSettings(rollouts=2)
    room = 4  # the opening, a reply, what it led to
    found, report = make_step_pairs(
        *_play(chosen, _experts(1), lambda: Limited("Action: go")), chosen
    )
    assert len(found) == report.alternatives == pairs
    for pair in found:
        assert (pair.info["chosen_value"], pair.info["rejected_value"]) == (1.0, 0.0)
        assert next(m.content for m in pair.rejected if m.role == "assistant") == "Action: go"
    room = 0
    assert make_step_pairs(*_play(chosen, _experts(1), lambda: Limited("go")), chosen)[0] == []


@settings(max_examples=20, deadline=None)
@given(
    rollouts=st.integers(1, 4),
    alternatives=st.integers(1, 2),
    threshold=st.sampled_from((0.0, 0.4)),
    extent=st.sampled_from(("rest", "step")),
)
def test_pairs_keep_their_promises(
    rollouts: int, alternatives: int, threshold: float, extent: str
) -> None:
    chosen = StepSettings(
        rollouts=rollouts, alternatives=alternatives, threshold=threshold, extent=extent
    )
    pairs, report = _pairs(chosen, tasks=4)
    assert report.pairs == len(pairs) == report.expert_chosen + report.agent_chosen
    assert report.pairs + sum(report.skipped.values()) == report.alternatives
    per_step: dict[tuple[str, int], int] = defaultdict(int)
    for pair in pairs:
        assert pair.info["chosen_value"] - pair.info["rejected_value"] > threshold
        assert pair.chosen != pair.rejected
        assert pair.prompt[-1].role == "user"
        assert pair.chosen[0].role == pair.rejected[-1].role == "assistant"
        per_step[pair.task_id, pair.info["step"]] += 1
    assert all(count <= alternatives for count in per_step.values())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rest'"):
        StepSettings(extent="rests")
    with pytest.raises(SettingsError, match="rollouts"):
        StepSettings(rollouts=0)
    with pytest.raises(SettingsError, match="explore_tasks"):
        StepDPOSettings(train_tasks=3, explore_tasks=4)


def test_it_learns_which_step_is_better(locksmith: Path, tmp_path: Path) -> None:
    chosen = StepDPOSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=96,
        control=False,
        sft=SFTSettings(**{**MUON, "muon_learning_rate": 1e-4, "learning_rate": 1e-4}, epochs=1),
        steps=StepSettings(rollouts=3, extent="step"),
        dpo=DPOSettings(**GENTLE, epochs=3),
    )  # fmt: skip
    report = StepDPOLoop(chosen, tmp_path).run()
    assert_learnt(report, "step DPO, iteration 1")
    (folder,) = (tmp_path / "stages").glob("steps-1-*")
    branches = TrajectoryStore(folder / BRANCHES).load(strict=True)
    assert len(branches) == 96 * 2 * 3
