from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.agents.collect import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.trainers.options import SettingsError
from eto_gym.trainers.ppo import EpisodePlayer, PPOLoop, PPOLoopSettings, PPOSettings, run_ppo
from eto_gym.trainers.sft import SFTSettings
from eto_gym.trainers.training import TrainReport, Watch
from eto_gym.trajectories import Trajectory
from tests.trainers.locks import LOCKS_ID, MUON, PLAY, LocksEnv, rates, success_of

torch = pytest.importorskip("torch")

from eto_gym.trainers.encoding import Row  # noqa: E402
from eto_gym.trainers.ppo_run import turn_rewards  # noqa: E402
from eto_gym.trainers.ppo_trainer import (  # noqa: E402
    PPOLearner,
    advantages_of,
    policy_loss,
    turn_numbers,
)

Play = Callable[..., Trajectory]

QUICK = PPOSettings(
    learning_rate=1e-3, value_learning_rate=1e-2, rounds=4, episodes=16, batch_size=8,
    micro_batch_size=8, max_length=256, warmup_ratio=0, save_every=2, target_kl=0,
)  # fmt: skip


def _player(episodes: int) -> EpisodePlayer:
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=128)  # type: ignore[arg-type,return-value]
    return EpisodePlayer(
        spec, LocksEnv().task_set.ids, episodes=episodes, seed=0, max_new_tokens=12, context=256
    )


def _learner(tiny: Path, settings: PPOSettings, *, reference: bool = True) -> PPOLearner:
    from eto_gym.trainers.models import load_model, load_tokenizer

    return PPOLearner(
        settings,
        load_model(tiny, settings),
        load_tokenizer(tiny),
        reference=load_model(tiny, settings) if reference else None,
    )


def _rows(tiny: Path, plays: Sequence[Trajectory]) -> list[Row]:
    from eto_gym.trainers.encoding import encode_trajectories
    from eto_gym.trainers.models import default_codec, load_tokenizer

    return encode_trajectories(default_codec(load_tokenizer(tiny)), plays, max_length=512)[0]


def test_turns_are_runs_of_marks() -> None:
    mask = [False, True, True, False, True, False, False, True, True]
    assert turn_numbers(mask).tolist() == [0, 0, 1, 2, 2]


@given(
    turns=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=8),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_advantages_equal_their_definition(
    turns: list[tuple[float, float]], gamma: float, lam: float
) -> None:
    """The sum over later turns of (gamma lambda)^k times the one-step surprise."""
    rewards = [reward for reward, _ in turns]
    values = [value for _, value in turns] + [0.0]
    surprises = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    expected = [
        sum((gamma * lam) ** (k - t) * surprises[k] for k in range(t, len(turns)))
        for t in range(len(turns))
    ]
    got = advantages_of(
        torch.tensor(rewards), torch.tensor(values[:-1]), gamma=gamma, gae_lambda=lam
    )
    assert got.tolist() == pytest.approx(expected, abs=1e-4)


def test_advantages_without_bootstrap_are_returns_above_values() -> None:
    rewards, values = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.3, 0.2, 0.9])
    got = advantages_of(rewards, values, gamma=1.0, gae_lambda=1.0)
    assert got.tolist() == pytest.approx([1.5 - 0.3, 1.5 - 0.2, 1.0 - 0.9])


def test_clipped_loss_has_no_gradient_outside_the_clip() -> None:
    old = torch.zeros(4)
    logps = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)])
    logps.requires_grad_()
    losses, outside = policy_loss(logps, old, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    assert losses.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert outside.all()
    losses.sum().backward()  # type: ignore[no-untyped-call]
    # What is already too likely is not made likelier; what moved the wrong way still comes back.
    assert logps.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_scores_equal_hand_computed_doubles(tiny: Path, make_play: Play) -> None:
    from transformers import AutoModelForCausalLM

    plays = [make_play(n, rounds=1 + n) for n in range(3)]
    rows = _rows(tiny, plays)
    learner = _learner(tiny, QUICK)
    torch.nn.init.normal_(learner.head.linear.weight, generator=torch.Generator().manual_seed(0))
    logps, values = learner.score(rows)
    exact: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    weight = learner.head.linear.weight.double()[0]
    for row, one, value in zip(rows, logps, values, strict=True):
        output = exact(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
        logits, states = output.logits[0].log_softmax(-1), output.hidden_states[-1][0]
        marked = [i for i, kept in enumerate(row.mask) if kept]
        assert one.tolist() == pytest.approx(
            [logits[i - 1, row.ids[i]].item() for i in marked], rel=1e-4
        )
        starts = [i for i in marked if not row.mask[i - 1]]
        assert value.tolist() == pytest.approx(
            [(states[i - 1] @ weight).item() for i in starts], abs=1e-4
        )


def test_the_kl_price_is_taken_off_the_turn_that_moved(tiny: Path, make_play: Play) -> None:
    rows = _rows(tiny, [make_play(0, rounds=2)])
    settings = replace(QUICK, kl_weight=0.5, normalize_advantages=False)
    learner = _learner(tiny, settings)
    played, moved = learner.prepare(rows, [[0.0, 1.0]])
    assert moved == pytest.approx(0, abs=1e-6)
    assert played[0].rewards.tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    for parameter in learner.model.parameters():
        parameter.data += 0.02 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(1)
        )
    before = learner._reference_scores(rows)[0][0]
    (now,), _ = learner.score(rows)
    played, moved = learner.prepare(rows, [[0.0, 1.0]])
    ratio = now.detach() - before
    assert moved == pytest.approx(ratio.mean().item(), abs=1e-5)
    turns = turn_numbers(rows[0].mask)
    price = [0.5 * ratio[turns == turn].sum().item() for turn in (0, 1)]
    assert played[0].rewards.tolist() == pytest.approx([-price[0], 1.0 - price[1]], abs=1e-4)


def test_micro_batches_do_not_change_a_round(tiny: Path, make_play: Play) -> None:
    plays = [make_play(n, rounds=1 + n % 3, good=n % 2 == 0) for n in range(8)]
    rows, rewards = _rows(tiny, plays), [[0.0] * (n % 3) + [float(n % 2)] for n in range(8)]
    weights = []
    for micro in (8, 1):
        learner = _learner(tiny, replace(QUICK, micro_batch_size=micro))
        played, _ = learner.prepare(rows, rewards)
        learner.learn(played, 0)
        weights.append([p.detach().clone() for p in learner.model.parameters()])
    for one, other in zip(*weights, strict=True):
        # Adam divides by the size of a gradient: where that is nearly 0, rounding decides.
        assert ((one - other).abs() > 1e-4).float().mean() < 0.01


def test_rewards_beyond_a_cut_are_earned_by_the_last_turn_that_is_left(make_play: Play) -> None:
    play = make_play(0, rounds=3)
    steps = [replace(step, reward=r) for step, r in zip(play.steps, (0.1, 0.2, 0.7), strict=True)]
    trajectory = replace(play, steps=tuple(steps))
    assert turn_rewards(trajectory, 3) == [0.1, 0.2, 0.7]
    assert turn_rewards(trajectory, 2) == pytest.approx([0.1, 0.9])


def _run(model: Path, output: Path, settings: PPOSettings = QUICK, **options: Any) -> TrainReport:
    resume = options.pop("resume", False)
    play = options.pop("play", _player(settings.episodes))
    return run_ppo(
        settings,
        play,
        model=model,
        output=output,
        resume=resume,
        watch=Watch(progress=False, **options),
    )


def test_a_killed_run_ends_with_the_same_weights(locksmith: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole = _run(locksmith, tmp_path / "whole")
    assert len(whole.metrics) == 4
    assert whole.steps == 4 * 2 * 2

    def score(step: int, _: Any) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return float(step)

    with pytest.raises(KeyboardInterrupt):
        _run(locksmith, tmp_path / "parts", on_evaluate=score)
    assert not (tmp_path / "parts").exists()
    parts = _run(
        locksmith, tmp_path / "parts", resume=True, on_evaluate=lambda step, _: float(step)
    )
    assert parts.metrics == whole.metrics
    assert [step for step, _ in parts.scores] == [0, 1, 2, 3, 4]
    first = load_file(tmp_path / "whole" / "model.safetensors")
    second = load_file(tmp_path / "parts" / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert _run(locksmith, tmp_path / "whole", resume=True).metrics == whole.metrics


def test_adapters_learn_and_are_their_own_reference(locksmith: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, lora_r=4, rounds=2, episodes=64, learning_rate=1e-2)
    report = _run(locksmith, tmp_path / "out", settings)
    assert report.metrics[0]["kl_reference"] == pytest.approx(0, abs=1e-6)
    assert abs(report.metrics[1]["kl_reference"]) > 1e-4
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_it_learns_from_rewards_alone(locksmith: Path, tmp_path: Path) -> None:
    settings = PPOLoopSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=192,
        sft=SFTSettings(**MUON, max_steps=4),
        ppo=PPOSettings(
            learning_rate=1e-3, value_learning_rate=1e-2, rounds=12, episodes=96, batch_size=32,
            micro_batch_size=32, max_length=256, warmup_ratio=0, kl_weight=0.01, save_every=0,
        ),
    )  # fmt: skip
    report = PPOLoop(settings, tmp_path).run()
    success = rates(report)
    assert success["SFT"] < 0.6
    assert success["PPO"] > 0.8
    (folder,) = (tmp_path / "stages").glob("ppo-*")
    assert success_of(folder / "model") == success["PPO"]


def test_what_cannot_work_is_refused(
    locksmith: Path, make_play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [make_play(n, error=True) for n in range(3)]
    with pytest.raises(EtoGymError, match=r"round 1 has no episode to learn from: \{'policy': 3\}"):
        _run(locksmith, tmp_path / "out", play=lambda *_: broken)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EtoGymError, match="one process"):
        _run(locksmith, tmp_path / "out")
    for changes in ({"epochs": 1.5}, {"clip": 0}, {"gamma": 2.0}, {"optimizer": "muon"}):
        with pytest.raises(SettingsError):
            PPOSettings(**changes)
    with pytest.raises(SettingsError, match="workers"):
        PPOLoopSettings(workers=2)
