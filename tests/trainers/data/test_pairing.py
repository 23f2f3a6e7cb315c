from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.errors import UnknownNameError
from eto_gym.prompt import Message
from eto_gym.trainers.data.pairing import make_pairs
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trajectories import Trajectory

Play = Callable[..., Trajectory]


def _replies(messages: tuple[Message, ...]) -> list[str]:
    return [message.content for message in messages if message.role == "assistant"]


def test_worse_agent_makes_the_expert_chosen(make_play: Play) -> None:
    expert, agent = make_play(0), make_play(0, good=False, policy="sft")
    pairs, report = make_pairs([agent], [expert])
    (pair,) = pairs
    assert pair.prompt == expert.messages[:3]
    assert pair.chosen == expert.messages[3:]
    assert pair.rejected == agent.messages[3:]
    assert pair.info["chosen_policy"] == "expert"
    assert (report.pairs, report.expert_chosen, report.agent_chosen) == (1, 1, 0)


def test_better_agent_is_chosen(make_play: Play) -> None:
    pairs, report = make_pairs(
        [make_play(0, good=False, reward=0.9, policy="sft")], [make_play(0, reward=0.4)]
    )
    assert pairs[0].info["chosen_policy"] == "sft"
    assert pairs[0].info["rejected_reward"] == 0.4
    assert (report.expert_chosen, report.agent_chosen) == (0, 1)


def test_nothing_else_is_paired_and_each_reason_is_counted(make_play: Play) -> None:
    agent = [
        make_play(0, good=False, reward=1.0),  # as good as the expert
        make_play(1, good=False, error=True, reward=0.0),
        make_play(2, good=False),  # the expert has an error
        make_play(3, good=False),  # no expert
        make_play(4, reward=0.5),  # says what the expert says
        replace(make_play(5, good=False), messages=(Message("user", "other"), *_tail(make_play))),
        replace(make_play(6), messages=(Message("user", "go"), Message("assistant", "no"))),
        make_play(7, good=False, sample=0),
        make_play(7, good=False, sample=1),  # the same pair again
    ]
    expert = [make_play(n, error=n == 2) for n in (0, 1, 2, 4, 5, 6, 7)]
    pairs, report = make_pairs(agent, expert)
    assert [pair.task_id for pair in pairs] == ["task-7"]
    assert report.skipped == {
        "tie": 1,
        "agent_error": 1,
        "expert_error": 1,
        "no_expert": 2,
        "identical": 1,
        "different_prompt": 1,
        "nothing_trained": 1,
        "duplicate": 1,
    }


def test_an_agent_that_outgrew_its_model_has_failed(make_play: Play) -> None:
    agent = make_play(0, good=False, rounds=2)
    asked = Message("user", agent.steps[-1].observation)  # nothing fitted after it
    full = replace(agent, outcome="error", error="context", messages=(*agent.messages, asked))
    (pair,), report = make_pairs([full], [make_play(0)])
    assert pair.rejected == agent.messages[3:]
    assert not report.skipped


def _tail(make_play: Play) -> tuple[Message, ...]:
    return make_play(5, good=False).messages[1:]


@pytest.mark.parametrize(("rounds", "kept", "cut"), [(8, 8, None), (9, 8, "length")])
def test_long_rejected_side_ends_five_rounds_after_the_chosen_one(
    make_play: Play, rounds: int, kept: int, cut: str | None
) -> None:
    agent = make_play(0, good=False, rounds=rounds)
    pairs, report = make_pairs([agent], [make_play(0, rounds=3)])
    assert _replies(pairs[0].rejected) == _replies(agent.messages[3:])[:kept]
    assert pairs[0].rejected[-1].role == "assistant"
    assert pairs[0].info["cut"] == cut
    assert report.cut_length == (cut is not None)


def test_long_chosen_side_is_never_cut(make_play: Play) -> None:
    pairs, report = make_pairs([make_play(0, good=False, rounds=2)], [make_play(0, rounds=20)])
    assert len(_replies(pairs[0].chosen)) == 20
    assert report.cut_length == 0


def test_expert_that_lost_is_cut_too(make_play: Play) -> None:
    pairs, _ = make_pairs(
        [make_play(0, good=False, rounds=2, reward=0.9)], [make_play(0, rounds=20, reward=0.1)]
    )
    assert len(_replies(pairs[0].rejected)) == 7


@pytest.mark.parametrize(("extra", "rounds"), [(0, 2), (1, 3), (9, 6)])
def test_cut_after_the_first_divergence(make_play: Play, extra: int, rounds: int) -> None:
    expert = make_play(0, rounds=3)
    wrong = make_play(0, good=False, rounds=5).messages[3:]
    # The first turn is right, the five that follow are not.
    agent = replace(make_play(0, good=False), messages=(*expert.messages[:5], *wrong), reward=0.0)
    pairs, report = make_pairs([agent], [expert], PairingSettings(cut_after_divergence=extra))
    assert pairs[0].info["divergence"] == 1
    assert len(_replies(pairs[0].rejected)) == rounds
    assert report.cut_divergence == (rounds < 6)


def test_own_best_sample_against_own_worst(make_play: Play) -> None:
    samples = [
        make_play(0, good=False, rounds=2 + n, reward=reward, sample=n)
        for n, reward in enumerate((0.2, 0.9, 0.9, 0.0))
    ]
    settings = PairingSettings(contrast="self")
    pairs, report = make_pairs([*samples, make_play(1)], settings=settings)
    assert [(p.info["chosen_sample"], p.info["rejected_sample"]) for p in pairs] == [(1, 3)]
    assert report.skipped == {"single_sample": 1}
    pairs, _ = make_pairs(samples, settings=replace(settings, max_pairs_per_task=2))
    assert [(p.info["chosen_sample"], p.info["rejected_sample"]) for p in pairs] == [(1, 3), (2, 0)]


def test_every_sample_meets_the_best_of_several_experts(make_play: Play) -> None:
    experts = [make_play(0, rounds=1, reward=0.4), make_play(0, rounds=2, reward=0.7, sample=1)]
    agent = [
        make_play(0, good=False, rounds=3 + n, reward=reward, sample=n)
        for n, reward in enumerate((0.2, 0.7, 0.75, 0.9, 0.2))
    ]
    pairs, report = make_pairs(agent, experts, PairingSettings(min_gap=0.1))
    assert [(p.info["chosen_reward"], p.info["rejected_reward"]) for p in pairs] == [
        (0.7, 0.2), (0.9, 0.7), (0.7, 0.2),
    ]  # fmt: skip
    assert report.skipped == {"tie": 2}, "as good, and better by no more than the gap"
    assert (report.expert_chosen, report.agent_chosen) == (2, 1)
    # The same conversations again are counted, whatever sample they are.
    again = [replace(sample, sample=10 + n) for n, sample in enumerate(agent)]
    pairs, report = make_pairs([*agent, *again], experts, PairingSettings(min_gap=0.1))
    assert (report.pairs, report.skipped) == (3, {"tie": 4, "duplicate": 3})


def test_pairs_per_task_are_limited(make_play: Play) -> None:
    agent = [make_play(0, good=False, rounds=n, sample=n) for n in (1, 2, 3)]
    pairs, report = make_pairs(agent, [make_play(0)], PairingSettings(max_pairs_per_task=2))
    assert len(pairs) == 2
    assert report.skipped == {"over_task_limit": 1}


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'expert'"):
        PairingSettings(contrast="experts")
    with pytest.raises(SettingsError, match="max_extra_rounds"):
        PairingSettings(max_extra_rounds=-1)


@given(
    rewards=st.lists(st.sampled_from((0.0, 0.3, 1.0)), max_size=6),
    expert_reward=st.sampled_from((0.0, 0.5, 1.0)),
    rounds=st.integers(1, 12),
    extra=st.none() | st.integers(0, 6),
)
def test_every_trajectory_is_paired_or_counted(
    make_play: Play, rewards: list[float], expert_reward: float, rounds: int, extra: int | None
) -> None:
    agent = [
        make_play(n % 2, good=False, rounds=rounds + n, reward=reward, sample=n)
        for n, reward in enumerate(rewards)
    ]
    settings = PairingSettings(max_extra_rounds=extra)
    pairs, report = make_pairs(agent, [make_play(0, reward=expert_reward)], settings)
    assert len(pairs) + sum(report.skipped.values()) == len(agent)
    assert report.expert_chosen + report.agent_chosen == report.pairs == len(pairs)
    for pair in pairs:
        assert pair.info["chosen_reward"] > pair.info["rejected_reward"]
        assert pair.chosen != pair.rejected
        assert pair.chosen[-1].role == pair.rejected[-1].role == "assistant"
        if extra is not None:
            assert len(_replies(pair.rejected)) <= len(_replies(pair.chosen)) + extra
