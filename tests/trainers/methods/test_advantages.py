"""Credit of turns, against values by hand."""

from __future__ import annotations

import math

import pytest

from eto_gym.agents.policies import expert_policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.conversation import ConversationEnv
from eto_gym.trainers.methods.advantages import Mark, Play, assign, horizon, mark_states
from eto_gym.trainers.settings.base import SettingsError, deciding
from eto_gym.trainers.settings.methods import GroupSettings
from tests.toy import CORRIDOR, make_corridor


def play(group: str, rewards: tuple[float, ...], keys: str = "", left: tuple[int | None, ...] = (),
         reached: tuple[float, ...] = (), *, failed: bool = False) -> Play:  # fmt: skip
    count = max(len(keys), len(left), len(reached))
    marks = tuple(
        Mark(
            keys[i] if keys else "",
            left[i] if left else None,
            reached[i] if reached else 0.0,
        )
        for i in range(count)
    )
    return Play(group, None if failed else sum(rewards), rewards, marks)


def test_episodes_are_compared_within_their_task_and_flat_groups_dropped() -> None:
    plays = [play("a", (0.0, 1.0)), play("a", (0.0,)), play("b", (1.0,)), play("b", (0.5, 0.5))]
    plays.append(play("a", (0.0, 0.0), failed=True))
    credit = assign(plays, "episode")
    assert credit.advantages[0] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert credit.advantages[1] == pytest.approx([-1.0], abs=1e-5)
    assert credit.advantages[2:] == [[0.0], [0.0, 0.0], [0.0, 0.0]]
    assert (credit.dropped, credit.kept, credit.known) == (1, 1, 0.0)
    plain = assign(plays, "episode", scaled=False)
    assert plain.advantages[0] == pytest.approx([0.5, 0.5], abs=1e-5)


def test_deviations_are_the_populations() -> None:
    plays = [play("a", (reward,)) for reward in (1.0, 0.0, 0.0, 1.0, 0.5)]
    # Mean 0.5; the squares of what they differ by are 4 times 0.25, over 5: 0.2.
    found = [value for (value,) in assign(plays, "episode").advantages]
    whole = 0.5 / math.sqrt(0.2)
    assert found == pytest.approx([whole, -whole, -whole, whole, 0.0], abs=1e-4)


def test_gigpo_compares_turns_of_one_state_by_their_discounted_returns() -> None:
    # Both begin in state x; one goes right at once, the other loses a turn there.
    plays = [play("a", (0.0, 1.0), "xyz"), play("a", (0.0, 0.0), "xxy"), play("b", (0.0,), "xy")]
    credit = assign(plays, "gigpo", weight=2.0, discount=0.5)
    returns = [0.5, 0.0, 0.0]  # of the three turns in x
    mean = sum(returns) / 3
    deviation = math.sqrt(sum((r - mean) ** 2 for r in returns) / 3)
    own = [(r - mean) / deviation for r in returns]
    assert credit.advantages[0] == pytest.approx([1 + 2 * own[0], 1.0], abs=1e-4)
    assert credit.advantages[1] == pytest.approx([-1 + 2 * own[1], -1 + 2 * own[2]], abs=1e-4)
    assert credit.advantages[2] == [0.0], "an only turn in its state has nothing to compare with"
    assert credit.known == pytest.approx(3 / 5)


def test_cost_to_go_credits_the_steps_saved_also_where_no_episode_succeeds() -> None:
    plays = [play("a", (0.0, 0.0), left=(3, 2, 4)), play("a", (0.0,), left=(3, None))]
    credit = assign(plays, "cost-to-go", weight=0.1)
    saved = [math.asinh(1.0), math.asinh(-2.0)]
    size = math.sqrt(sum(s**2 for s in saved) / 2)
    assert credit.advantages[0] == pytest.approx([0.1 * s / size for s in saved], rel=1e-4)
    assert credit.advantages[1] == [0.0]
    assert credit.dropped == 1


def test_milestones_credit_progress_and_what_follows() -> None:
    plays = [play("a", (0.0, 1.0), reached=(0.0, 0.5, 1.0)), play("a", (0.0,), reached=(0.0, 0.0))]
    credit = assign(plays, "milestones", discount=0.5, scaled=False)
    ahead = [0.5 + 0.5 * 0.5, 0.5, 0.0]
    mean = sum(ahead) / 3
    assert credit.advantages[0] == pytest.approx([0.5 + ahead[0] - mean, 0.5 + ahead[1] - mean])
    assert credit.advantages[1] == pytest.approx([-0.5 - mean])


def test_states_are_marked_by_repeating_an_episode() -> None:
    spec = RolloutSpec(CORRIDOR, expert_policy, prompt_style="none")
    (episode,) = collect(spec, plan_episodes(["door-2/2"]))
    env = ConversationEnv(make_corridor(), prompt_style="none")
    assert [m.left for m in mark_states(env, episode, "cost-to-go")] == [3, 2, 1, 0]
    keys = [m.key for m in mark_states(env, episode, "gigpo")]
    assert len(set(keys)) == 4
    assert [m.reached for m in mark_states(env, episode, "milestones")] == [0, 0, 0, 1]
    from dataclasses import replace

    assert mark_states(env, replace(episode, reward=0.3), "gigpo") == ()
    marks = tuple(replace(m, train=False) for m in episode.messages[:3]) + episode.messages[3:]
    unmarked = replace(episode, messages=marks)
    assert [m.key for m in mark_states(env, unmarked, "gigpo")] == keys


def test_horizons_grow_up_to_the_environment_s_own() -> None:
    found = [horizon(step, first=4, growth=0.5, most=6) for step in range(6)]
    assert found == [4, 4, 5, 5, None, None]
    assert horizon(0, first=0, growth=1.0, most=6) is None
    assert horizon(9, first=2, growth=1.0, most=None) == 11


def test_settings_of_credit_name_no_stage_of_runs_without() -> None:
    assert not {"advantage", "horizon_start"} & set(deciding(GroupSettings()))
    assert deciding(GroupSettings(advantage="gigpo"))["advantage"] == "gigpo"
    with pytest.raises(SettingsError, match="critic"):
        GroupSettings(advantage="turn")


def test_ppo_adds_the_simulators_credit_to_the_critics_estimate() -> None:
    torch = pytest.importorskip("torch")
    from eto_gym.trainers.data.encoding import TokenRow
    from eto_gym.trainers.methods.ppo_losses import Scores, estimate
    from eto_gym.trainers.settings.methods import PPOSettings

    row = TokenRow([1, 2, 3, 4], [False, True, False, True])
    scores = [Scores(torch.zeros(2), torch.tensor([0.25, 0.5]), None)]
    settings = PPOSettings(
        advantage="cost-to-go", advantage_weight=0.5, normalize_advantages=False, kl_weight=0.0
    )
    plain, _ = estimate([[row]], [[0.0, 1.0]], scores, settings)
    more, _ = estimate([[row]], [[0.0, 1.0]], scores, settings, {(0, 1): 2.0})
    assert (more[0].advantages - plain[0].advantages).tolist() == [0.0, 1.0]
    assert torch.equal(more[0].returns, plain[0].returns), "the critic learns what it learnt"
    with pytest.raises(SettingsError, match="grpo"):
        PPOSettings(advantage="episode")
    assert "advantage" not in deciding(PPOSettings())
