from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.collect import RolloutSpec
from eto_gym.trainers.group import GroupLoopSettings, GroupSettings, GRPOLoop, RLOOLoop
from eto_gym.trainers.options import SettingsError
from eto_gym.trainers.ppo import EpisodePlayer
from eto_gym.trainers.sft import SFTSettings
from eto_gym.trainers.tool_env import ToolEnvironment, tool_dataset, tool_environments
from tests.toy import CORRIDOR
from tests.trainers.locks import LOCKS_ID, MUON, PLAY, LocksEnv, rates

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

QUICK = GroupSettings(
    learning_rate=1e-3, max_steps=1, batch_size=8, micro_batch_size=4, generations=4,
    max_length=256, warmup_ratio=0,
)  # fmt: skip


def _trainer(algorithm: str, model: Path, folder: Path, settings: GroupSettings) -> Any:
    from eto_gym.trainers.group_trainer import (
        EpisodeSource,
        PlayedGRPOTrainer,
        PlayedRLOOTrainer,
    )
    from eto_gym.trainers.models import default_codec, load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=128)  # type: ignore[arg-type,return-value]
    player = EpisodePlayer(
        spec, LocksEnv().task_set.ids, episodes=8, seed=0, max_new_tokens=12, context=256
    )
    made = PlayedGRPOTrainer if algorithm == "grpo" else PlayedRLOOTrainer
    return made(
        settings,
        model=load_model(model, settings),
        source=EpisodeSource(player, default_codec(tokenizer), settings),
        tokenizer=tokenizer,
        workspace=folder,
    )


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_only_the_agents_tokens_have_gradients(
    locksmith: Path, tmp_path: Path, algorithm: str
) -> None:
    """The logits of observations get no gradient, those of the agent's tokens do."""
    trainer = _trainer(algorithm, locksmith, tmp_path, QUICK)
    names = list(trainer._source.player.task_ids[:2])
    inputs = [{"prompt": name} for name in names for _ in range(4)]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # transformers sets it when it trains
    batch = trainer._generate_and_score_completions(inputs)
    batch["advantages"] = torch.ones(8)
    before, after = batch["prompt_ids"].shape[1], batch["completion_ids"]
    marks = batch["tool_mask"] if algorithm == "grpo" else batch["agent"]
    states: list[Any] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    hook = trainer.model.base_model.register_forward_hook(keep)
    trainer._compute_loss(trainer.model, batch).backward()
    hook.remove()
    (state,) = states
    # The state at t - 1 is used for the token at t.
    used = state.grad[:, before - 1 : -1].abs().sum(-1) > 0
    assert used.shape == after.shape
    assert torch.equal(used, marks.bool() & batch["completion_mask"].bool())
    assert 0 < int(marks.sum()) < marks.numel()


def test_rewards_belong_to_their_episodes(locksmith: Path, tmp_path: Path) -> None:
    trainer = _trainer("rloo", locksmith, tmp_path, QUICK)
    names = list(trainer._source.player.task_ids[:2])
    inputs = [{"prompt": name} for name in names for _ in range(4)]
    batch = trainer._generate_and_score_completions(inputs)
    rewards = torch.tensor(trainer._source.rewards).view(2, 4)
    others = (rewards.sum(1, keepdim=True) - rewards) / 3
    assert torch.allclose(batch["advantages"], (rewards - others).view(-1))
    texts = trainer.processing_class.batch_decode(batch["completion_ids"])
    for text, reward in zip(texts, rewards.view(-1).tolist(), strict=True):
        assert (text.count("Action:") == 2) >= bool(reward)


@pytest.mark.parametrize("loop", [GRPOLoop, RLOOLoop], ids=["grpo", "rloo"])
def test_it_learns_from_rewards_alone(
    locksmith: Path, tmp_path: Path, loop: type[GRPOLoop | RLOOLoop]
) -> None:
    settings = GroupLoopSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=192,
        sft=SFTSettings(**MUON, max_steps=3),
        group=GroupSettings(
            learning_rate=1e-3, max_steps=28, batch_size=64, micro_batch_size=64, generations=8,
            max_length=256, warmup_ratio=0,
        ),
    )  # fmt: skip
    report = loop(settings, tmp_path).run()
    success = rates(report)
    assert success["SFT"] < 0.6
    assert success[loop.method.upper()] > 0.6


def test_environments_in_the_shape_of_tools() -> None:
    from transformers.utils.chat_template_utils import get_json_schema

    env = tool_environments(CORRIDOR)()
    assert isinstance(env, ToolEnvironment)
    schema = get_json_schema(env.act)["function"]
    assert schema["name"] == "act"
    assert list(schema["parameters"]["properties"]) == ["action"]
    rows = tool_dataset(CORRIDOR)
    for row, reward in zip(rows.select(range(2)), (1.0, -0.5), strict=True):
        assert "You are at door 0." in env.reset(**row)
        assert env.act("open") in ("Well done.", "Wrong door.")
        assert env.get_reward() == reward
        assert env.act("open") == "The episode is over."
        assert env.get_reward() == reward


def test_bad_settings_are_refused() -> None:
    for changes in ({"generations": 1}, {"max_steps": 0}, {"batch_size": 20}, {"beta": -1.0}):
        with pytest.raises(SettingsError):
            GroupSettings(**changes)
    with pytest.raises(SettingsError, match="workers"):
        GroupLoopSettings(workers=2)
