"""Where failures leave the path, and pairs that end there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eto_gym.agents.policies import random_policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import UnknownNameError
from eto_gym.trainers.data.first_error import Errors, errors_of, find_errors
from eto_gym.trainers.data.pairing import make_pairs
from eto_gym.trainers.settings.base import SettingsError, deciding
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trainers.settings.loops import ETOSettings, MixtureLoopSettings
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.formats import read_pair, to_hf_preference, to_paper_dpo
from tests.toy import CORRIDOR, CorridorEnv, make_corridor


@pytest.mark.parametrize(
    ("left", "lost", "found"),
    [
        ([3, 2, 3, 2, 2], False, Errors(1, 3)),  # back, and then a wait
        ([3, 2, 1, 1, 2], False, Errors(2, 3)),
        ([2, 3, 4, 5], False, Errors(0, 0)),
        ([3, 2, 1, None], True, Errors(2, 2)),  # the right place, the wrong thing
        ([3, None, None, None], True, Errors(0, 0)),  # no way is known any more
        ([3, None, 2, 2], False, Errors(2, 2)),  # not known for a while
        ([None, None], True, Errors(0, 0)),
        ([None, None], False, None),
        ([4, 3, 2], False, None),  # cut short by a limit, on the right path
    ],
)
def test_errors_are_told_by_the_steps_that_are_left(
    left: list[int | None], lost: bool, found: Errors | None
) -> None:
    assert errors_of(left, lost) == found


def _played(env_id: str, tasks: int, **kwargs: Any) -> tuple[ConversationEnv, list[Trajectory]]:
    spec = RolloutSpec(
        env_id,
        random_policy,
        env_kwargs={"admissible_actions": True, **kwargs},
        prompt_style="none",
    )
    env = ConversationEnv(spec.make_env(), prompt_style="none")
    ids = env.unwrapped.task_set.ids[:tasks]  # type: ignore[attr-defined]
    return env, collect(spec, plan_episodes(ids, samples=2))


def test_a_walk_past_the_door_is_found_and_cut() -> None:
    env, played = _played(CORRIDOR, 8)
    failures = [t for t in played if not t.success]
    errors = find_errors(env, played)
    assert errors.keys() == {t.key for t in failures}
    for failure in failures:
        goal = int(failure.task_id.split("/")[0][-1])
        actions = [step.action for step in failure.steps]
        right = [*["go"] * goal, "open"]
        wrong = next(i for i, (a, b) in enumerate(zip(actions, right, strict=False)) if a != b)
        assert errors[failure.key] == Errors(wrong, wrong)

    expert = [t for t in played if t.success]
    settings = PairingSettings(contrast="expert", cut="first-error")
    pairs, report = make_pairs(failures, expert, settings, errors=errors)
    assert pairs
    assert report.cut_error == sum(p.info["cut"] == "error" for p in pairs) > 0
    assert report.unknown_error == 0
    for pair in pairs:
        key = (pair.task_id, pair.info["rejected_sample"])
        found = errors[key]
        assert found is not None
        assert sum(m.role == "assistant" for m in pair.rejected) == found.first + 1
    # A beginning of the chosen side is never what is left: the last reply is wrong.
    assert report.skipped["identical"] == 0
    unknown = dict.fromkeys(errors)
    _, left = make_pairs(failures, expert, settings, errors=unknown)
    assert (left.cut_error, left.unknown_error) == (0, left.pairs)
    with pytest.raises(SettingsError, match="asks the environment"):
        make_pairs(failures, expert, settings)
    assert "cut" not in deciding(PairingSettings())


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("ETO/ALFWorld-v0", {"data": "builtin:small", "max_episode_steps": 8}),
        ("ETO/WebShop-v0", {"max_episode_steps": 6}),
    ],
)
def test_errors_of_the_benchmarks_are_steps_that_saved_nothing(
    env_id: str, kwargs: dict[str, Any]
) -> None:
    env, played = _played(env_id, 2, **kwargs)
    errors = find_errors(env, played)
    found = [e for e in errors.values() if e is not None]
    assert found
    assert all(0 <= e.first <= e.final for e in found)
    first = replace(played[0].steps[0], observation="?")
    changed = replace(played[0], steps=(first,), messages=played[0].messages[:2], facts=())
    assert find_errors(env, [changed]) == {changed.key: None}
    env.close()


def test_an_environment_without_costs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env, played = _played(CORRIDOR, 4)
    monkeypatch.setattr(CorridorEnv, "cost_to_go", lambda self: None)
    with pytest.raises(SettingsError, match="CorridorEnv tells no cost_to_go"):
        find_errors(env, played)
    with pytest.raises(UnknownNameError, match="first-error"):
        PairingSettings(cut="first-eror")
    with pytest.raises(SettingsError, match="nothing to cut"):
        PairingSettings(cut="first-error", contrast="correction")
    assert make_corridor() is not None


def test_every_failure_is_used_where_nothing_is_paired() -> None:
    env, played = _played(CORRIDOR, 8)
    experts = [replace(t, policy="expert") for t in played if t.success]
    settings = PairingSettings(contrast="unpaired", max_pairs_per_task=1)
    sides, report = make_pairs(played, experts, settings)
    bad = [p for p in sides if p.rejected]
    failures = {(t.task_id, t.messages) for t in played if not t.success}
    assert len(bad) == len(failures)
    assert {p.chosen for p in bad} == {()}
    good = [p for p in sides if p.chosen]
    assert len(good) == len({(t.task_id, t.messages) for t in experts}) == report.expert_chosen
    assert report.pairs == report.unpaired == len(sides)
    assert sum(report.skipped.values()) + report.pairs == len(played) + len(experts)
    for pair in sides:
        for write in (to_paper_dpo, to_hf_preference):
            assert replace(read_pair(write(pair)), info=pair.info) == pair
    cut, report = make_pairs(
        played, experts, replace(settings, cut="final-error"), errors=find_errors(env, played)
    )
    assert report.cut_error > 0
    assert sum(len(p.rejected) for p in cut) < sum(len(p.rejected) for p in sides)


def test_sides_by_themselves_are_for_etos_kto() -> None:
    unpaired = PairingSettings(contrast="unpaired")
    assert ETOSettings(pairing=unpaired, dpo=DPOSettings(loss="kto"))
    with pytest.raises(SettingsError, match="compares pairs"):
        ETOSettings(pairing=unpaired)
    with pytest.raises(SettingsError, match="is for eto"):
        MixtureLoopSettings(pairing=unpaired)
