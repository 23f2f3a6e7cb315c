from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.trainers.errors import DiskFullError, TrainingError
from eto_gym.trainers.loops.on_policy import PPOLoop
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.methods.ppo import run_ppo
from eto_gym.trainers.run.training import TrainReport, Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.loops import PPOLoopSettings
from eto_gym.trainers.settings.methods import PPOSettings, SFTSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.sampled import unchain
from tests.trainers.checkpoints import noted_checkpoints
from tests.trainers.locks import LOCKS_ID, MUON, PLAY, LocksEnv, assert_learnt, rates, success_of

torch = pytest.importorskip("torch")

from eto_gym.trainers.data.encoding import TokenRow  # noqa: E402
from eto_gym.trainers.methods.ppo import PPOTrainer  # noqa: E402
from eto_gym.trainers.methods.ppo_losses import (  # noqa: E402
    advantages_of,
    divergence,
    estimate,
    policy_losses,
    turn_rewards,
    value_losses,
)
from eto_gym.trainers.methods.row_forests import turn_numbers, turns_of  # noqa: E402
from eto_gym.trainers.model.weights import save_weights  # noqa: E402

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


def _trainer(tiny: Path, folder: Path, settings: PPOSettings, play: Any = None) -> PPOTrainer:
    from eto_gym.trainers.data.encoding import TokenReport
    from eto_gym.trainers.model.models import default_codec, load_for_training, load_tokenizer

    tokenizer = load_tokenizer(tiny)
    return PPOTrainer(
        settings,
        model=load_for_training(tiny, settings),
        reference=load_for_training(tiny, settings),
        play=play,
        codec=default_codec(tokenizer),
        data=TokenReport(),
        tokenizer=tokenizer,
        workspace=folder,
    )


def _rows(tiny: Path, plays: Sequence[Trajectory]) -> list[TokenRow]:
    from eto_gym.trainers.data.encoding import encode_trajectories
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

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
    losses, outside = policy_losses(logps, old, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    assert losses.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert outside.all()
    losses.sum().backward()  # type: ignore[no-untyped-call]
    # What is already too likely is not made likelier; what moved the wrong way still comes back.
    assert logps.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_values_gain_nothing_by_a_move_beyond_the_clip() -> None:
    values, before = torch.tensor([0.9, 0.9, 0.1]), torch.tensor([0.0, 0.0, 0.0])
    returns = torch.tensor([1.0, -1.0, 1.0])
    assert value_losses(values, before, returns, 0.0).tolist() == pytest.approx([0.01, 3.61, 0.81])
    clipped = value_losses(values, before, returns, 0.2).tolist()
    assert clipped == pytest.approx([0.64, 3.61, 0.81])


def test_divergence_is_estimated_from_tokens_of_the_old_policy() -> None:
    now, old = torch.tensor([0.7, 0.3]), torch.tensor([0.5, 0.5])
    exact = (old * (old / now).log()).sum()
    assert (old * divergence(now.log(), old.log())).sum().item() == pytest.approx(exact.item())
    assert (divergence(now.log(), old.log()) > 0).all()


def test_scores_equal_hand_computed_doubles(tiny: Path, make_play: Play, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    plays = [make_play(n, rounds=1 + n) for n in range(3)]
    rows = _rows(tiny, plays)
    trainer = _trainer(tiny, tmp_path, QUICK)
    torch.nn.init.normal_(trainer.head.linear.weight, generator=torch.Generator().manual_seed(0))
    exact: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    weight = trainer.head.linear.weight.double()[0]
    for row, scores in zip(rows, trainer.score(rows), strict=True):
        output = exact(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
        logits, states = output.logits[0].log_softmax(-1), output.hidden_states[-1][0]
        marked = [i for i, kept in enumerate(row.mask) if kept]
        assert scores.logps.tolist() == pytest.approx(
            [logits[i - 1, row.ids[i]].item() for i in marked], rel=1e-4
        )
        starts = [i for i in marked if not row.mask[i - 1]]
        assert scores.values.tolist() == pytest.approx(
            [(states[i - 1] @ weight).item() for i in starts], abs=1e-4
        )
        assert scores.reference is not None
        assert torch.equal(scores.reference, scores.logps)


def test_the_kl_price_is_taken_off_the_turn_that_moved(
    tiny: Path, make_play: Play, tmp_path: Path
) -> None:
    rows = _rows(tiny, [make_play(0, rounds=2)])
    settings = replace(QUICK, kl_weight=0.5, normalize_advantages=False)
    trainer = _trainer(tiny, tmp_path, settings)
    played, moved = estimate([rows], [[0.0, 1.0]], trainer.score(rows), settings)
    assert moved == pytest.approx(0, abs=1e-6)
    assert played[0].rewards.tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    for parameter in trainer.bare.parameters():
        parameter.data += 0.02 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(1)
        )
    (scores,) = trainer.score(rows)
    played, moved = estimate([rows], [[0.0, 1.0]], [scores], settings)
    assert scores.reference is not None
    ratio = scores.logps - scores.reference
    assert moved == pytest.approx(ratio.mean().item(), abs=1e-5)
    turns = turn_numbers(rows[0].mask)
    price = [0.5 * ratio[turns == turn].sum().item() for turn in (0, 1)]
    assert played[0].rewards.tolist() == pytest.approx([-price[0], 1.0 - price[1]], abs=1e-4)


def _forgetful_player() -> EpisodePlayer:
    """Return what plays four episodes and reads the last exchange alone."""
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=4)  # type: ignore[arg-type,return-value]
    return EpisodePlayer(
        spec, LocksEnv().task_set.ids, episodes=4, seed=0, max_new_tokens=6, context=512,
        history="last:1",
    )  # fmt: skip


def test_bounded_prompts_are_rows_of_an_episode(tiny: Path, tmp_path: Path) -> None:
    """Each reply is scored and learnt from after what was read for it."""
    player = _forgetful_player()
    settings = replace(QUICK, rounds=1, episodes=4, batch_size=4, epochs=1.0, max_length=512)
    trainer = _trainer(tiny, tmp_path, settings, player)
    played = trainer._play_round()
    trajectories = player(trainer.bare, trainer._codec, 0, range(4))
    model = trainer.bare
    for trajectory, episode in zip(trajectories, played, strict=True):
        assert len(trajectory.steps) == 4
        assert len(episode.rows) == 3  # the second prompt goes on from the first reply
        logps = []
        links = trajectory.tokens
        for prompt, link in zip(unchain(links), links, strict=True):
            ids = [*prompt, *link.reply]
            with torch.no_grad():
                said = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            logps += [float(said[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]
        assert episode.scores.logps.tolist() == pytest.approx(logps, abs=1e-4)
        assert turns_of(episode.rows).tolist() == [
            turn for turn, link in enumerate(links) for _ in link.reply
        ]
        assert len(episode.returns) == 4
    trainer.train()
    # The first ratios are 1: the loss is the mean of the tokens' advantages.
    tokens = [a for e in played for a in e.advantages[turns_of(e.rows)].tolist()]
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(-sum(tokens) / len(tokens), abs=1e-4)
    assert entry["turns"] == 4


def test_rows_that_share_their_beginnings_are_learnt_from_alike(tiny: Path, tmp_path: Path) -> None:
    player = _forgetful_player()
    kept = player(*_player_parts(tiny, tmp_path), 0, range(4))
    found = []
    for share in ("off", "on"):
        settings = replace(
            QUICK, rounds=1, episodes=4, batch_size=4, micro_batch_size=2, max_length=512,
            share_prefix=share,
        )  # fmt: skip
        trainer = _trainer(tiny, tmp_path / share, settings, lambda *_: kept)
        found.append(_learn_in_doubles(trainer, rows=[3] * 4, trees=share == "on"))
    _assert_alike(*found)


def test_whole_episodes_are_packed_where_they_begin_alike(
    tiny: Path, make_play: Play, tmp_path: Path
) -> None:
    plays = [make_play(n, rounds=1 + 2 * n % 5) for n in range(6)]
    long = "You live in a house. " * 25
    plays = [
        replace(play, messages=(replace(play.messages[0], content=long), *play.messages[1:]))
        for play in plays
    ]
    found = {}
    for share in ("off", "on", "auto"):
        settings = replace(
            QUICK, rounds=1, episodes=6, batch_size=6, micro_batch_size=3, max_length=512,
            share_prefix=share, epochs=1.0,
        )  # fmt: skip
        trainer = _trainer(tiny, tmp_path / share, settings, lambda *_: plays)
        found[share] = _learn_in_doubles(trainer, rows=[1] * 6, trees=share != "off")
    for share in ("on", "auto"):
        _assert_alike(found["off"], found[share])
    assert trainer.notes["share_prefix"].startswith("on: saves ")


def _learn_in_doubles(
    trainer: Any, *, rows: list[int], trees: bool
) -> tuple[float, list[Any], list[Any]]:
    """Play a round and learn from its first optimizer batch, which is two micro-batches.

    Returns:
        The loss, the gradients of all weights, and the scores of each episode.
    """
    trainer.bare.double()
    trainer._reference.double()
    torch.manual_seed(1)
    torch.nn.init.normal_(trainer.head.linear.weight)
    played = trainer._play_round()
    assert [len(episode.rows) for episode in played] == rows
    total = 0.0
    for batch in list(trainer._deal(played))[:2]:
        assert ("tree" in batch) == trees
        # The policy has moved since it played: no ratio is 1.
        moved = {**batch, "logps": batch["logps"] + 0.1, "returns": batch["returns"] + 1.0}
        loss = trainer.compute_loss(trainer.bare, moved)
        loss.backward()
        total += float(loss.detach())
    grads = [p.grad for p in trainer.bare.parameters() if p.grad is not None]
    return total, grads, [torch.cat([e.scores.logps, e.scores.values]) for e in played]


def _assert_alike(
    padded: tuple[float, list[Any], list[Any]], other: tuple[float, list[Any], list[Any]]
) -> None:
    """Compare what two layouts of the rows came to; each cuts the batch into micro-batches."""
    assert other[0] == pytest.approx(padded[0], rel=1e-5)
    for one, two in zip([*padded[1], *padded[2]], [*other[1], *other[2]], strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


def _player_parts(tiny: Path, folder: Path) -> tuple[Any, Any]:
    trainer = _trainer(tiny, folder / "player", QUICK)
    return trainer.bare, trainer._codec


def _rewarded(play: Trajectory, last: float) -> Trajectory:
    steps = [replace(step, reward=0.0) for step in play.steps]
    return replace(play, steps=(*steps[:-1], replace(steps[-1], reward=last)))


def test_micro_batches_do_not_change_a_round(tiny: Path, make_play: Play, tmp_path: Path) -> None:
    plays = [make_play(n, rounds=1 + n % 3, good=n % 2 == 0) for n in range(10)]
    plays = [_rewarded(play, float(n % 2)) for n, play in enumerate(plays)]
    weights, entries = [], []
    for micro in (8, 1):  # of 10 episodes the second batch leaves 6 passes without any
        settings = replace(QUICK, micro_batch_size=micro, rounds=1, episodes=10, max_length=512)
        trainer = _trainer(tiny, tmp_path / str(micro), settings, lambda *_: plays)
        trainer.train()
        assert trainer.state.global_step == 4
        entries.append(trainer.state.log_history[0])
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    for one, other in zip(*weights, strict=True):
        # Adam divides by the size of a gradient: where that is nearly 0, rounding decides.
        assert ((one - other).abs() > 1e-4).float().mean() < 0.01
    assert entries[0]["clipped"] > 0
    for name, value in entries[0].items():
        assert entries[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


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


@pytest.mark.parametrize("lora_r", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_weights(
    locksmith: Path, tmp_path: Path, lora_r: int
) -> None:
    from safetensors.torch import load_file

    settings = replace(QUICK, lora_r=lora_r, lora_dropout=0.1)
    whole = _run(locksmith, tmp_path / "whole", settings)
    assert [entry["epoch"] for entry in whole.metrics] == [1, 2, 3, 4]
    assert whole.steps == whole.metrics[-1]["step"] == 4 * 2 * 2

    def score(step: int, _: Any) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return float(step)

    with pytest.raises(KeyboardInterrupt):
        _run(locksmith, tmp_path / "parts", settings, on_evaluate=score)
    assert not (tmp_path / "parts").exists()
    with noted_checkpoints() as starts:
        parts = _run(
            locksmith, tmp_path / "parts", settings, resume=True,
            on_evaluate=lambda step, _: float(step),
        )  # fmt: skip
    assert starts == [tmp_path / "parts.work" / "checkpoint-8"]
    assert parts.metrics == whole.metrics
    assert parts.data == whole.data
    assert [step for step, _ in parts.scores] == [0, 1, 2, 3, 4]
    name = "adapter_model.safetensors" if lora_r else "model.safetensors"
    first, second = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
    assert not any("value_head" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if not lora_r:
        assert _run(locksmith, tmp_path / "whole", settings, resume=True) == whole


def test_a_full_disk_at_the_value_head_leaves_a_run_that_resumes(
    locksmith: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.methods import ppo_rounds

    saves: list[Path] = []

    def refuse(head: Any, path: Path) -> None:
        saves.append(path)
        if len(saves) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_weights(head, path)

    settings = replace(QUICK, rounds=2, save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(ppo_rounds, "save_weights", refuse)
        with pytest.raises(DiskFullError, match="run the same command again, without --restart"):
            _run(locksmith, tmp_path / "out", settings)
    with noted_checkpoints() as starts:
        assert _run(locksmith, tmp_path / "out", settings, resume=True).steps == 8
    assert starts == [tmp_path / "out.work" / "checkpoint-4"]


def test_a_run_killed_after_its_last_checkpoint_only_writes_its_model(
    locksmith: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.run import base_trainer

    settings = replace(QUICK, rounds=1)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base_trainer, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            _run(locksmith, tmp_path / "out", settings)
    report = _run(locksmith, tmp_path / "out", settings, resume=True, play=die)
    assert (report.steps, len(report.metrics), report.data.rows) == (4, 1, 16)
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("qlora", [False, True])
def test_adapters_learn_and_are_their_own_reference(
    locksmith: Path, tmp_path: Path, qlora: bool
) -> None:
    if qlora:
        pytest.importorskip("bitsandbytes")
    settings = replace(QUICK, lora_r=4, qlora=qlora, rounds=2, episodes=64, learning_rate=1e-2)
    report = _run(locksmith, tmp_path / "out", settings)
    assert report.metrics[0]["kl_reference"] == pytest.approx(0, abs=1e-6)
    assert abs(report.metrics[1]["kl_reference"]) > 1e-4
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_a_round_ends_early_where_the_policy_moved_too_far(
    tiny: Path, make_play: Play, tmp_path: Path
) -> None:
    plays = [_rewarded(make_play(n), float(n % 2)) for n in range(10)]
    settings = replace(
        QUICK, rounds=3, epochs=3, episodes=10, max_length=512, target_kl=1e-6, log_every=2
    )
    report = _run(tiny, tmp_path / "out", settings, play=lambda *_: plays)
    assert report.steps == 3 * 2  # one pass of two batches in each round
    assert [(entry["epoch"], entry["step"]) for entry in report.metrics] == [(2, 4), (3, 6)]
    settings = replace(settings, target_kl=0, max_steps=7)
    report = _run(
        tiny, tmp_path / "steps", settings, play=lambda *_: plays, on_evaluate=lambda n, _: -n
    )
    assert [entry["step"] for entry in report.metrics] == [7]
    assert ([step for step, _ in report.scores], report.kept_step) == ([0, 1, 2], 0)


def test_scores_that_do_not_rise_end_the_run_with_the_best_round(
    locksmith: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    report = _run(
        locksmith, tmp_path / "out", on_evaluate=lambda step, _: -step, every=1, patience=1
    )
    assert (report.steps, report.kept_step, report.best) == (4, 0, (0, 0.0))
    (warning,) = report.warnings
    assert warning.startswith("stopped at round 1: the score did not rise above 0")
    assert warning.endswith("the weights of round 0 are kept")
    first = load_file(locksmith / "model.safetensors")
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(first[name], kept[name]) for name in first)


def test_rounds_are_reported_where_it_is_asked_for(
    locksmith: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[dict[str, Any]] = []

    class Reporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            told.append(kwargs["logs"])

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Reporter)
    report = _run(locksmith, tmp_path / "out", replace(QUICK, rounds=2, report_to="wandb"))
    rounds = [logs for logs in told if "loss" in logs]
    assert [logs["success"] for logs in rounds] == [e["success"] for e in report.metrics]


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
    assert_learnt(report, "PPO")
    (folder,) = (tmp_path / "stages").glob("ppo-*")
    assert success_of(folder / "model") == rates(report)["PPO"]


def test_what_cannot_work_is_refused(locksmith: Path, make_play: Play, tmp_path: Path) -> None:
    broken = [make_play(n, error=True) for n in range(3)]
    with pytest.raises(EtoGymError, match=r"round 1 has no episode to learn from: \{'policy': 3\}"):
        _run(locksmith, tmp_path / "out", play=lambda *_: broken)
    endless = [_rewarded(make_play(n), math.inf) for n in range(3)]
    with pytest.raises(TrainingError, match="step 1: loss is nan"):
        _run(locksmith, tmp_path / "out", play=lambda *_: endless)
    assert not list(tmp_path.glob("out.work/checkpoint-*"))
    for changes in ({"epochs": 1.5}, {"clip": 0}, {"gamma": 2.0}, {"optimizer": "muon"}):
        with pytest.raises(SettingsError):
            PPOSettings(**changes)
    with pytest.raises(SettingsError, match="workers"):
        PPOLoopSettings(workers=2)
