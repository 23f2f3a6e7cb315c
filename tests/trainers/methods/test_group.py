from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.trainers.loops.on_policy import GRPOLoop, RLOOLoop
from eto_gym.trainers.methods.group import run_group
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.loops import GroupLoopSettings, RLOOLoopSettings
from eto_gym.trainers.settings.methods import GroupSettings, SFTSettings
from eto_gym.trainers.tool_env import ToolEnvironment, tool_dataset, tool_environments
from tests.toy import CORRIDOR
from tests.trainers.checkpoints import noted_checkpoints
from tests.trainers.locks import LOCKS_ID, MUON, PLAY, LocksEnv, assert_learnt

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

QUICK = GroupSettings(
    learning_rate=1e-3, max_steps=1, batch_size=8, micro_batch_size=4, generations=4,
    max_length=256, warmup_ratio=0,
)  # fmt: skip


def _trainer(
    algorithm: str,
    model: Path,
    folder: Path,
    settings: GroupSettings,
    history: str = "full",
    context: int = 512,
) -> Any:
    from eto_gym.trainers.methods.episode_source import EpisodeSource
    from eto_gym.trainers.methods.group import PlayedGRPOTrainer, PlayedRLOOTrainer
    from eto_gym.trainers.model.models import default_codec, load_for_training, load_tokenizer

    tokenizer = load_tokenizer(model)
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=128)  # type: ignore[arg-type,return-value]
    player = EpisodePlayer(
        spec,
        LocksEnv().task_set.ids,
        episodes=8,
        seed=0,
        max_new_tokens=12,
        context=context,
        history=history,
    )
    made = PlayedGRPOTrainer if algorithm == "grpo" else PlayedRLOOTrainer
    return made(
        settings,
        model=load_for_training(model, settings),
        source=EpisodeSource(player, default_codec(tokenizer), settings),
        tokenizer=tokenizer,
        workspace=folder,
    )


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt nothing: it says anything, in any tokens, and seldom ends a reply."""
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    tokenizer = train_tokenizer(["You are in the hall. Action: use bone"], vocab_size=280)
    model = build_model(tokenizer, hidden_size=32, layers=1, mlp_size=64, context=512)
    return save_tiny(model, tokenizer, tmp_path_factory.mktemp("babbler"))


def _remember(source: Any) -> list[Any]:
    """Return a list that receives what the source plays, batch by batch."""
    played: list[Any] = []
    play = source.player.play

    def remember(*args: Any) -> Any:
        played.append(play(*args))
        return played[-1]

    source.player.play = remember
    return played


def test_an_episode_that_outgrows_the_model_earns_what_it_has_earned(
    babbler: Path, tmp_path: Path
) -> None:
    trainer = _trainer("grpo", babbler, tmp_path, QUICK, context=256)
    source = trainer._source
    played = _remember(source)
    trainer.model.train()
    inputs = [{"prompt": name} for name in source.player.task_ids[:2] for _ in range(4)]
    trainer._generate_and_score_completions(inputs)
    (trajectories,) = played
    assert {t.error for t in trajectories} == {"context"}
    assert all(t.steps for t in trajectories), "no context for a single reply"
    assert source.rewards == [t.reward for t in trajectories]


@pytest.mark.parametrize("history", ["full", "last:1"])
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_what_was_sampled_is_learnt_from_after_what_was_read(
    babbler: Path, tmp_path: Path, algorithm: str, history: str
) -> None:
    """The loss is the methods' own, of log-probabilities of single tokens after their prompts."""
    settings = dataclasses.replace(QUICK, max_length=512)
    trainer = _trainer(algorithm, babbler, tmp_path, settings, history)
    source = trainer._source
    played = _remember(source)
    names = list(source.player.task_ids[:2])
    inputs = [{"prompt": name} for name in names for _ in range(4)]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2  # transformers sets it when it trains
    batch = trainer._generate_and_score_completions(inputs)
    (trajectories,) = played
    assert {len(t.steps) for t in trajectories} == {4}
    assert {len(e.rows) for e in source.episodes} == {1 if history == "full" else 3}
    cut = [link for t in trajectories for link in t.tokens if len(link.reply) == 12]
    end = source._codec.end_of_turn_id
    assert any(end not in link.reply for link in cut), "a reply that was cut did not end itself"
    batch["advantages"] = torch.linspace(-1, 1, 8)
    order = torch.randperm(8)
    shuffled = {k: v if v.ndim == 0 else v[order] for k, v in batch.items()}
    loss = trainer._compute_loss(trainer.model, shuffled)

    model, sums, means = trainer.model, [], []
    for trajectory, ids in zip(trajectories, batch["completion_ids"], strict=True):
        known: list[int] = []
        logps, sampled = [], []
        for link in trajectory.tokens:
            prompt = [*known[: link.kept], *link.prompt]
            known = [*prompt, *link.reply]
            scores = model(input_ids=torch.tensor([known])).logits[0].log_softmax(-1)
            logps += [scores[i - 1, known[i]] for i in range(len(prompt), len(known))]
            sampled += link.reply
        assert ids[: len(sampled)].tolist() == sampled
        sums.append(torch.stack(logps).sum())
        means.append(len(logps))
    weights = batch["advantages"] * (torch.tensor(means) if algorithm == "grpo" else 1)
    expected = -weights.sum() / (sum(means) if algorithm == "grpo" else 8)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    loss.backward()
    own = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    # The ratio to the policy that played is 1, and its gradient that of the log-probability.
    goal = -(batch["advantages"] * torch.stack(sums)).sum()
    (goal / (sum(means) if algorithm == "grpo" else 8)).backward()
    for name, weight in model.named_parameters():
        assert torch.allclose(own[name], weight.grad, atol=1e-5), name


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


@pytest.mark.parametrize(
    "loop", [GRPOLoop, pytest.param(RLOOLoop, marks=pytest.mark.slow)], ids=["grpo", "rloo"]
)
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
    assert_learnt(report, loop.method.upper())


@pytest.mark.parametrize("advantage", ["gigpo", pytest.param("cost-to-go", marks=pytest.mark.slow)])
def test_it_learns_from_the_credit_of_turns(
    locksmith: Path, tmp_path: Path, advantage: str
) -> None:
    settings = GroupLoopSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=192,
        sft=SFTSettings(**MUON, max_steps=3),
        group=GroupSettings(
            learning_rate=1e-3, max_steps=14, batch_size=64, micro_batch_size=64, generations=8,
            max_length=256, warmup_ratio=0, advantage=advantage, horizon_start=1,
        ),
    )  # fmt: skip
    assert_learnt(GRPOLoop(settings, tmp_path).run(), "GRPO")


def test_tokens_have_the_advantage_of_their_turn(locksmith: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, advantage="cost-to-go", advantage_weight=0.5)
    trainer = _trainer("grpo", locksmith, tmp_path, settings)
    source = trainer._source
    names = list(source.player.task_ids[:2])
    trainer.current_gradient_accumulation_steps = 2
    batch = trainer._generate_and_score_completions(
        [{"prompt": name} for name in names for _ in range(4)]
    )
    found = batch["advantages"]
    assert found.shape == batch["completion_ids"].shape
    several = 0
    for row, episode, turns in zip(found, source.episodes, source.advantages, strict=True):
        said = iter(row.tolist())
        for number, part in enumerate(_replies(episode)):
            assert [next(said) for _ in part] == pytest.approx([turns[number]] * len(part))
        assert set(said) <= {0.0}
        several += len(set(turns)) > 1
    assert several, "some episode has turns of different worth"
    kept = (batch["completion_mask"] * batch["tool_mask"]).sum()
    assert batch["num_items_in_batch"] == kept
    assert trainer._metrics["train"]["turns/with_own_credit"]


def _replies(episode: Any) -> list[list[int]]:
    """The sampled tokens of an episode, turn by turn."""
    turns: list[list[int]] = []
    for row in episode.rows:
        before = False
        for token, kept in zip(row.ids, row.mask, strict=True):
            if kept and not before:
                turns.append([])
            if kept:
                turns[-1].append(token)
            before = kept
    return turns


def test_rloo_refuses_advantages_of_turns(locksmith: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, advantage="gigpo")
    with pytest.raises(SettingsError, match="rloo weighs whole episodes"):  # before SFT, too
        RLOOLoopSettings(group=GroupSettings(advantage="gigpo"))
    with pytest.raises(SettingsError, match="rloo weighs whole episodes"):
        run_group("rloo", settings, None, model=locksmith, output=tmp_path / "out")  # type: ignore[arg-type]


def _run(algorithm: str, model: Path, output: Path, **options: Any) -> Any:
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=128)  # type: ignore[arg-type,return-value]
    player = EpisodePlayer(
        spec, LocksEnv().task_set.ids, episodes=16, seed=0, max_new_tokens=12, context=256
    )
    settings = GroupSettings(
        learning_rate=1e-2, max_steps=options.pop("max_steps", 4), batch_size=16,
        micro_batch_size=8, generations=8, max_length=256, warmup_ratio=0, beta=0.05, save_every=2,
        lora_r=options.pop("lora_r", 4),
    )  # fmt: skip
    resume = options.pop("resume", False)
    watch = Watch(progress=False, **options)
    return run_group(
        algorithm, settings, player, model=model, output=output, resume=resume, watch=watch
    )


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_adapters_are_resumed_and_are_their_own_reference(
    locksmith: Path, tmp_path: Path, algorithm: str
) -> None:
    from safetensors.torch import load_file

    whole = _run(algorithm, locksmith, tmp_path / "whole")

    def score(step: int, _: Any) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return float(step)

    with pytest.raises(KeyboardInterrupt):
        _run(algorithm, locksmith, tmp_path / "parts", on_evaluate=score, every=1)
    assert not (tmp_path / "parts").exists()
    with noted_checkpoints() as checkpoints:
        parts = _run(algorithm, locksmith, tmp_path / "parts", resume=True)
    assert [path.name for path in checkpoints if path] == ["checkpoint-2"]
    for key in ("loss", "reward", "kl", "grad_norm"):
        assert [e[key] for e in parts.metrics] == [e[key] for e in whole.metrics], key
    assert [list(entry) for entry in parts.metrics] == [list(entry) for entry in whole.metrics]
    assert parts.data == whole.data
    first, second = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The price is paid for moving away from where a run begins: the base, or an adapter on it.
    assert whole.metrics[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert abs(whole.metrics[-1]["kl"]) > 1e-4
    again = _run(algorithm, tmp_path / "whole", tmp_path / "again", max_steps=1)
    assert again.metrics[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert {p.name for p in (tmp_path / "again").iterdir() if p.suffix == ".safetensors"} == {
        "adapter_model.safetensors"
    }
    with pytest.raises(SettingsError, match="base without the adapter"):
        _run(algorithm, tmp_path / "whole", tmp_path / "merged", lora_r=0)


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


def test_a_tool_episode_that_fails_to_run_has_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    env = ToolEnvironment(CORRIDOR)
    monkeypatch.setattr(env._env.unwrapped, "_step", lambda action: 1 / 0)
    env.reset(task_id="door-0/0")
    with pytest.raises(Exception, match=r"division|failed"):
        env.act("open")
    assert env.get_reward() is None
    assert env.act("open") == "The episode is over."


@pytest.fixture
def caller(tmp_path: Path) -> Path:
    """A tiny model with Qwen's chat template that has learnt to call `act`, and little else."""
    from transformers.utils.chat_template_utils import get_json_schema
    from trl.chat_template_utils import qwen2_5_chat_template

    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    (first,) = tool_dataset(CORRIDOR, tasks=1)["prompt"]
    schema = get_json_schema(ToolEnvironment(CORRIDOR).act)

    def call(action: str) -> dict[str, Any]:
        function = {"name": "act", "arguments": {"action": action}}
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}

    def talk(door: int, *actions: str) -> list[dict[str, Any]]:
        ask = f"You are at door 0.\nYour task is to: open door {door}."
        messages = [{"role": "user", "content": first[0]["content"] + ask}]
        for i, action in enumerate(actions):
            messages += [call(action)]
            messages += [{"role": "tool", "name": "act", "content": f"You are at door {i + 1}."}]
        return messages[:-1]

    talks = [talk(door, *["go"] * gone, "open") for door in range(2) for gone in range(2)]
    texts = [str(talk) for talk in talks] + [str(schema)]
    tokenizer = train_tokenizer(texts, vocab_size=700)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = qwen2_5_chat_template
    options: dict[str, Any] = {"tools": [schema], "return_dict": False}
    rows: list[Any] = [tokenizer.apply_chat_template(talk, **options) for talk in talks]
    told: Any = tokenizer.apply_chat_template(talks[0][:1], add_generation_prompt=True, **options)
    model = build_model(tokenizer, hidden_size=48, layers=2, heads=4, mlp_size=96, context=2048)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    size = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (size - len(row)) for row in rows])
    labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    labels[:, : len(told)] = -100
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (step + 1) / 10)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.015:  # nearly every call is right by then
            break
    assert loss < 0.02
    return save_tiny(model, tokenizer, tmp_path / "caller")


@pytest.mark.slow
def test_a_grpo_trainer_of_trl_plays_our_environments(
    caller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example, that is TRL's own loop: our tool is called, and our reward is learnt from."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eto_gym.trainers.model.models import quiet_libraries

    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "docs/examples")
    example = importlib.import_module("grpo_with_trl")
    played: list[ToolEnvironment] = []

    def make(env_id: str, **env_kwargs: Any) -> Callable[[], ToolEnvironment]:
        def one() -> ToolEnvironment:
            played.append(ToolEnvironment(env_id, **env_kwargs))
            return played[-1]

        return one

    monkeypatch.setattr(example, "tool_environments", make)
    model = AutoModelForCausalLM.from_pretrained(caller)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with quiet_libraries():
        trainer = example.main(
            model, str(tmp_path / "out"), CORRIDOR,
            tokenizer=AutoTokenizer.from_pretrained(caller), env_kwargs={"tasks": 2},
            max_steps=3, per_device_train_batch_size=8,
            num_generations=4, max_completion_length=256, max_tool_calling_iterations=4,
            learning_rate=1e-4, use_cpu=True, bf16=False, report_to=[], logging_steps=1,
            save_strategy="no", disable_tqdm=True, seed=0,
        )  # fmt: skip
    assert len(played) == 8  # made once, reset for every batch
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(log) == 3
    rewards = [entry["rewards/ToolEnvironment/mean"] for entry in log]
    assert all(entry["reward"] == reward for entry, reward in zip(log, rewards, strict=True))
    assert any(entry["reward_std"] > 0 for entry in log), rewards
    assert all(entry["tools/call_frequency"] > 0.5 for entry in log), log
    assert all(entry["tools/failure_frequency"] < 0.5 for entry in log), log
    last = [env.get_reward() for env in played]
    assert rewards[-1] == pytest.approx(sum(r or 0 for r in last) / 8)
    assert {-0.5, 1.0} & set(last)
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())


def test_bad_settings_are_refused() -> None:
    for changes in ({"generations": 1}, {"max_steps": 0}, {"batch_size": 20}, {"beta": -1.0}):
        with pytest.raises(SettingsError):
            GroupSettings(**changes)
    with pytest.raises(SettingsError, match="workers"):
        GroupLoopSettings(workers=2)
