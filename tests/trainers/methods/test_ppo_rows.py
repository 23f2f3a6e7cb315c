"""PPO on episodes of several rows, and on rows that share a pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trajectories.sampled import unchain
from tests.trainers.locks import LOCKS_ID, LocksEnv
from tests.trainers.methods.ppo_parts import QUICK, Play, new_trainer, rewarded

torch = pytest.importorskip("torch")
from eto_gym.trainers.methods.ppo_losses import turn_rewards  # noqa: E402
from eto_gym.trainers.methods.row_forests import turns_of  # noqa: E402


def _player(context: int, history: str) -> EpisodePlayer:
    """Return what plays four episodes."""
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=4)  # type: ignore[arg-type,return-value]
    return EpisodePlayer(
        spec, LocksEnv().task_set.ids, episodes=4, seed=0, max_new_tokens=6, context=context,
        history=history,
    )  # fmt: skip


def _round(tiny: Path, folder: Path, player: EpisodePlayer) -> tuple[Any, list[Any], list[Any]]:
    """Play a round; return its trainer, what is learnt from, and the episodes that were played."""
    settings = replace(QUICK, rounds=1, episodes=4, batch_size=4, epochs=1.0, max_length=512)
    trainer = new_trainer(tiny, folder, settings, player)
    played = trainer._play_round()
    return trainer, list(played), list(player(trainer.bare, trainer._codec, 0, range(4)))


def test_an_episode_that_outgrows_the_model_is_learnt_from(tiny: Path, tmp_path: Path) -> None:
    trainer, played, trajectories = _round(tiny, tmp_path, _player(256, "full"))
    assert {t.error for t in trajectories} == {"context"}
    assert [len(episode.returns) for episode in played] == [len(t.steps) for t in trajectories]
    assert trainer._round["errors"] == 0


def test_bounded_prompts_are_rows_of_an_episode(tiny: Path, tmp_path: Path) -> None:
    """Each reply is scored and learnt from after what was read for it."""
    trainer, played, trajectories = _round(tiny, tmp_path, _player(512, "last:1"))
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
    player = _player(512, "last:1")
    kept = player(*_player_parts(tiny, tmp_path), 0, range(4))
    found = []
    for share in ("off", "on"):
        settings = replace(
            QUICK, rounds=1, episodes=4, batch_size=4, micro_batch_size=2, max_length=512,
            share_prefix=share,
        )  # fmt: skip
        trainer = new_trainer(tiny, tmp_path / share, settings, lambda *_: kept)
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
        trainer = new_trainer(tiny, tmp_path / share, settings, lambda *_: plays)
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
    trainer = new_trainer(tiny, folder / "player", QUICK)
    return trainer.bare, trainer._codec


def test_micro_batches_do_not_change_a_round(tiny: Path, make_play: Play, tmp_path: Path) -> None:
    plays = [make_play(n, rounds=1 + n % 3, good=n % 2 == 0) for n in range(10)]
    plays = [rewarded(play, float(n % 2)) for n, play in enumerate(plays)]
    weights, entries = [], []
    for micro in (8, 1):  # of 10 episodes the second batch leaves 6 passes without any
        settings = replace(QUICK, micro_batch_size=micro, rounds=1, episodes=10, max_length=512)
        trainer = new_trainer(tiny, tmp_path / str(micro), settings, lambda *_: plays)
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
