from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policy import Conversation
from eto_gym.errors import DataError, EtoGymError, UnknownNameError
from eto_gym.prompt import Message

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# ruff: noqa: E402
from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.kv import cache_argument
from eto_gym.agents.models.loading import read_template
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.sampling import Sampler
from eto_gym.agents.models.tiny import build_model, save_tiny
from eto_gym.agents.rollout.engine import Rollout, plan_episodes
from tests.agents.models.small_models import (
    CODEC,
    KINDS,
    MODEL,
    TOKENIZER,
    generate,
    generate_ids,
    hello,
    make_model,
    observation,
    play,
    policy,
    spread,
)
from tests.toy import LanedCorridorEnv, make_corridor


class RecordingCodec(ChatCodec):
    """Remembers which ids became which reply."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER)
        self.seen: set[tuple[str, tuple[int, ...]]] = set()

    def decode_reply(self, ids: Sequence[int]) -> str:
        text = super().decode_reply(ids)
        self.seen.add((text, tuple(ids)))
        return text


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_says_what_generate_says_on_the_whole_conversation(kind: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, codec = make_model(kind).to(device), RecordingCodec()
    acting = LocalPolicy(model, codec, max_new_tokens=12, prefill_tokens=100)
    talks = play(acting, list(range(5)), turns=3)
    replies = set()
    for talk in talks.values():
        for i, message in enumerate(talk):
            if message.train:
                ids = tuple(generate_ids(model, talk[:i]))
                assert (message.content, ids) in codec.seen
                replies.add(ids)
    assert len(replies) > (3 if kind != "falcon-alibi" else 1)  # this one repeats itself
    if kind == "llama":  # rows leave the batch at different steps
        assert len({len(ids) for ids in replies}) > 2


def test_a_model_whose_outputs_accelerate_turns_into_float32_says_the_same() -> None:
    """So it wraps a model that is trained in 16 bits: what looks like a tensor is turned, too."""
    from accelerate.utils.operations import convert_outputs_to_fp32

    said = []
    for wrapped in (False, True):
        model = make_model("llama").to(torch.bfloat16)
        if wrapped:
            model.forward = convert_outputs_to_fp32(model.forward)
        said.append(play(LocalPolicy(model, CODEC, max_new_tokens=12), [0, 1], turns=2))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        # Since transformers 5.24 its states come in a cache of layers.
        ("mamba", "MambaForCausalLM .* (no layers of keys and values|LinearAttentionLayer)"),
        ("qwen3-next", "keeps: LinearAttentionLayer"),
        ("falcon-h1", "keeps: LinearAttentionAndFullAttentionLayer"),
    ],
)
def test_a_model_that_keeps_other_states_is_refused_at_once(kind: str, kept: str) -> None:
    with pytest.raises(EtoGymError, match=f"{kept}.*`eto-gym serve MODEL`"):
        policy(make_model(kind), context=512)


def test_the_cache_goes_by_the_name_that_the_models_class_has() -> None:
    class Older:
        def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...

    class Newer:
        def forward(self, input_ids: Any, cache: Any = None) -> None: ...

    for kind, name in ((Older, "past_key_values"), (Newer, "cache")):
        model: Any = kind()
        assert cache_argument(model) == name
        model.forward = lambda *args, **kwargs: None  # as a scorer puts its own there
        assert cache_argument(model) == name


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_replies_do_not_depend_on_batches_caches_or_order(options: dict[str, Any]) -> None:
    episodes = list(range(9))
    expected = play(policy(**options), episodes)
    assert play(policy(**options, keep_cache=False), episodes) == expected
    assert play(policy(**options, batch_size=2), episodes, together=5) == expected
    assert play(policy(**options, max_cached_tokens=300), episodes[::-1]) == expected
    alone = [play(policy(**options), [i])[i] for i in episodes]
    assert dict(zip(episodes, alone, strict=True)) == expected


def test_sampled_episodes_do_not_depend_on_slots_or_threads() -> None:
    episodes = plan_episodes([f"door-{i % 4}/{i}" for i in range(6)], samples=2, seed=1)

    def rolled(
        slots: int, make_env: Callable[[], Any] = make_corridor
    ) -> dict[tuple[str, int], tuple[Message, ...]]:
        acting = policy(temperature=1.0)
        rollout = Rollout(make_env, acting, slots=slots, prompt_style="none")
        return {t.key: t.messages for t in rollout.play(episodes)}

    alone = rolled(slots=1)
    assert len(set(alone.values())) == len(episodes)
    lanes = itertools.cycle(range(3))
    threaded = rolled(12, lambda: LanedCorridorEnv(lane=next(lanes), max_episode_steps=8))
    assert rolled(slots=5) == threaded == alone


def test_only_new_tokens_are_computed_and_shared_starts_once() -> None:
    acting = policy()
    talks = [[Message("user", "The rules of this house. " * 9), *hello(i)] for i in range(3)]

    def turn() -> list[dict[str, int]]:
        batch = [Conversation(str(i), talk) for i, talk in enumerate(talks)]
        replies = acting.act(batch)
        for i, reply in enumerate(replies):
            talks[i] += [Message("assistant", reply.text, train=True), observation(i, 1)]
        return [reply.usage for reply in replies]

    rules = len(CODEC.encode(talks[0][:2]).input_ids)
    first = turn()
    for usage in first:
        # Counted as if each were alone: what is shared within a batch depends on who is in it.
        assert usage["prefilled_tokens"] == usage["prompt_tokens"] > rules
    for usage, before in zip(turn(), first, strict=True):
        # What was read is not read again. The reply may be: random weights spell words in tokens
        # that the tokenizer would not choose.
        assert usage["prefilled_tokens"] <= usage["prompt_tokens"] - before["prompt_tokens"]
        assert 1 <= usage["decoded_tokens"] <= 12


def test_edited_histories_are_computed_anew() -> None:
    acting = policy()
    talk = [Message("user", "The rules of this house. " * 3), *hello(1)]
    first = acting.act([Conversation("a", talk)])[0].text
    acting.act([Conversation("b", [Message("user", "The rules of this house. " * 3)])])
    longer = [*talk, Message("assistant", first), observation(1, 1)]
    acting.act([Conversation("a", longer)])
    edited = [*talk, Message("assistant", "Action: look"), observation(1, 2)]
    for messages in (edited, talk, longer, [Message("user", "The rules")]):
        assert acting.act([Conversation("a", messages)])[0].text == generate(MODEL, messages)
    short = [Message("user", "The rules of this house. ")]
    assert acting.act([Conversation("b", short)])[0].text == generate(MODEL, short)
    assert acting.act([Conversation("a", longer)])[0].text == generate(MODEL, longer)


def test_a_full_context_is_an_error_and_never_a_cut() -> None:
    talk = [Message("user", "The rules."), *hello(0)]
    size = len(CODEC.generation_prompt(talk))
    plain = policy().act([Conversation("a", talk)])[0]
    said = plain.usage["decoded_tokens"]
    fits = policy(context=size + said).act([Conversation("a", talk)])[0]
    assert fits == plain
    for context in (size + said - 1, size, size - 1):
        reply = policy(context=context).act([Conversation("a", talk)])[0]
        assert (reply.error, reply.text) == ("context", "")
        assert reply.usage["prompt_tokens"] == size
    assert policy(context=size).act([Conversation("a", talk)])[0].usage["decoded_tokens"] == 0


def test_drop_oldest_leaves_out_exchanges_and_says_so() -> None:
    talk = [Message("user", "The rules."), *hello(0)]
    for turn in range(6):
        talk += [Message("assistant", "Action: look", train=True), observation(0, turn)]
    size = len(CODEC.generation_prompt(talk))
    acting = policy(context=size - 20, on_full="drop_oldest")
    reply = acting.act([Conversation("a", talk)])[0]
    dropped = reply.usage["dropped_messages"]
    assert dropped % 2 == 0
    assert dropped > 0
    # The rules and the first observation, which names the task, stay.
    kept = [*talk[:3], *talk[3 + dropped :]]
    assert reply.text == generate(MODEL, kept)
    assert len(CODEC.generation_prompt(kept)) + 12 <= size - 20
    more = [*talk[:3], *talk[3 + dropped - 2 :]]
    assert len(CODEC.generation_prompt(more)) + 12 > size - 20, "no more than must be"
    assert acting.act([Conversation("a", talk[:1])])[0].usage.get("dropped_messages") is None


def test_worked_examples_and_the_task_are_never_dropped() -> None:
    """Only replies marked as the agent's own end what stays; before the first there are none."""
    examples = [Message("system", "The rules."), *hello(0)]
    for turn in range(4):
        examples += [Message("assistant", "Action: look"), observation(0, turn)]
    context = len(CODEC.generation_prompt(examples)) + 4  # no room for a whole reply
    acting = policy(context=context, on_full="drop_oldest")
    first = acting.act([Conversation("a", examples)])[0]
    assert first.usage.get("dropped_messages") is None
    assert first.usage["prompt_tokens"] == context - 4
    own = [Message("assistant", "Action: look", train=True), observation(0, 9)]
    reply = acting.act([Conversation("b", [*examples, *own, *own])])[0]
    assert reply.usage["dropped_messages"] == 2
    assert reply.usage["prompt_tokens"] == len(CODEC.generation_prompt([*examples, *own]))


def test_a_long_conversation_is_laid_out_few_times_to_drop_its_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = [Message("user", "The rules."), *hello(0)]
    for turn in range(200):
        talk += [Message("assistant", "Action: look", train=True), observation(0, turn)]
    acting = policy(context=200, on_full="drop_oldest")
    laid: list[int] = []
    whole = CODEC.generation_prompt

    def counted(messages: Sequence[Message]) -> list[int]:
        laid.append(len(messages))
        return whole(messages)

    monkeypatch.setattr(CODEC, "generation_prompt", counted)
    reply = acting.act([Conversation("a", talk)])[0]
    assert reply.error is None
    assert reply.usage["dropped_messages"] > 300
    assert len(laid) < 12
    # The last observation is what there is to reply to: it stays, whether or not there is room.
    small = policy(context=30, on_full="drop_oldest").act([Conversation("a", talk)])[0]
    assert small.error == "context"


def test_stop_strings_end_a_reply_and_are_no_part_of_it() -> None:
    talks = [[Message("user", "The rules."), *hello(i)] for i in range(9)]
    said = policy(max_new_tokens=20).act([Conversation(str(i), t) for i, t in enumerate(talks)])
    longest = max(range(9), key=lambda i: said[i].usage["decoded_tokens"])
    talk, free = talks[longest], said[longest]
    assert len(free.text) > 4
    stop = free.text[2:4]
    reply = policy(max_new_tokens=20, stop=[stop, "never"]).act([Conversation("a", talk)])[0]
    assert reply.text == free.text[: free.text.index(stop)]
    assert reply.usage["decoded_tokens"] < free.usage["decoded_tokens"]
    assert not reply.truncated
    assert {s.usage["decoded_tokens"] for s in said if s.truncated} <= {20}
    assert all(s.truncated or s.usage["decoded_tokens"] < 20 for s in said)


def test_looking_for_stop_strings_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply of n tokens does not decode n of them n times."""
    decoded: list[int] = []
    whole = CODEC.decode_reply

    def counted(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return whole(ids)

    monkeypatch.setattr(CODEC, "decode_reply", counted)
    acting = policy(stop=["no such words"], lookup=0)
    for size in range(1, 600):
        assert not acting._has_stop([5] * size)
    assert max(decoded) < 40


@pytest.mark.parametrize("stop", ["Obs", "\n", "é", "🙂", " look"])
def test_a_stop_string_is_found_with_its_last_token_wherever_it_stands(stop: str) -> None:
    acting = policy(stop=[stop], lookup=0)
    for before in ("", "x", "Thought: I look on, and on. " * 9, "é🙂" * 30):
        before = before.replace(stop, "")
        ids = CODEC.tokenizer.encode(before + stop, add_special_tokens=False)
        first = next(i for i in range(len(ids) + 1) if stop in CODEC.decode_reply(ids[:i]))
        assert acting._has_stop(ids[:first])
        assert not acting._has_stop(ids[: first - 1])


@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("top_p", [1e-9, 0.5, 0.9, 0.99999])
def test_the_nucleus_is_that_of_the_whole_vocabulary_in_order(top_p: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 3000, generator=generator) * spread
    logits[::2] = logits[::2].round()  # many are alike
    draws = torch.rand(64, generator=generator, dtype=torch.float64)
    picks = Sampler(temperature=0.7, top_p=top_p)(logits, draws.tolist())

    probs, order = torch.softmax(logits / 0.7, -1).sort(dim=-1, descending=True, stable=True)
    probs = probs.double()
    kept = torch.where(probs.cumsum(-1) - probs < top_p, probs, 0.0)
    mass = kept.cumsum(-1)
    place = (mass <= draws[:, None] * mass[:, -1:]).sum(-1)
    assert picks.tolist() == order[torch.arange(64), place].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [5, 1024, 2048, 2049, 5000])
def test_greedy_picks_the_first_of_the_most_probable(vocabulary: int, dtype: Any) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(32, vocabulary, generator=generator).round().to(dtype)  # many are alike
    logits[0, -1] = 99.0
    logits[1, 0] = logits[1, -1] = 99.0
    picks = Sampler(temperature=0.0, top_p=1.0)(logits, [])
    first = [int((row == row.max()).nonzero()[0]) for row in logits]
    assert picks.tolist() == first
    broken = torch.full((2, vocabulary), float("nan"))
    assert all(0 <= p < vocabulary for p in Sampler(temperature=0.0, top_p=1.0)(broken, []))


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    probs = torch.softmax(logits / 0.5, -1)[0]
    draws = [(i + 0.5) / 4000 for i in range(4000)]
    picks = Sampler(temperature=0.5, top_p=1.0)(logits.expand(4000, 4), draws)
    share = torch.bincount(picks, minlength=4) / 4000
    assert torch.allclose(share, probs, atol=1e-3)
    nucleus = Sampler(temperature=0.5, top_p=0.9)(logits.expand(4000, 4), draws)
    share = torch.bincount(nucleus, minlength=4) / 4000
    kept = torch.where(torch.tensor([False, True, True, False]), probs, torch.zeros(4))
    assert torch.allclose(share, kept / kept.sum(), atol=1e-3)
    one = Sampler(temperature=0.5, top_p=1e-9)(logits.expand(9, 4), draws[::450])
    assert one.tolist() == [2] * 9
    edges = Sampler(temperature=1.0, top_p=1.0)(logits.expand(2, 4), [0.0, 1 - 1e-16])
    assert edges.tolist() == [0, 3]


def test_wrong_options_are_refused() -> None:
    for wrong in (
        {"temperature": -1},
        {"top_p": 0.0},
        {"max_new_tokens": 0},
        {"on_full": "cut"},
        {"context": 0},
        {"max_cached_tokens": -1},
        {"keep_cache": "no"},
    ):
        with pytest.raises(EtoGymError, match=f"expected .*{next(iter(wrong))}"):
            policy(**wrong)
    with pytest.raises(EtoGymError, match="same key"):
        policy().act([Conversation("a", hello(0)[1:]), Conversation("a", hello(0)[1:])])
    with pytest.raises(UnknownNameError, match="dtype"):
        LocalPolicy.from_pretrained("nowhere", dtype="float23")


def test_loads_a_saved_model_with_adapter_and_quantization(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = spread(build_model(TOKENIZER, layers=1, mlp_size=128, context=512))
    folder = save_tiny(model, TOKENIZER, tmp_path / "model")
    talk = [Message("user", "The rules."), *hello(0)]
    loaded = LocalPolicy.from_pretrained(str(folder), device="cpu", max_new_tokens=12)
    expected = policy(model).act([Conversation("a", talk)])[0]
    assert loaded.act([Conversation("a", talk)])[0] == expected
    assert loaded.name == str(folder)

    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tuned = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path / "adapter")
    adapted = LocalPolicy.from_pretrained(
        str(folder), adapter=str(tmp_path / "adapter"), device="cpu", max_new_tokens=12
    )
    talks = play(adapted, [0, 1])
    merged = tuned.merge_and_unload().eval()
    assert any(m.train for talk in talks.values() for m in talk)
    for talk in talks.values():
        assert all(m.content == generate(merged, talk[:i]) for i, m in enumerate(talk) if m.train)
    assert talks != play(policy(model), [0, 1])

    pytest.importorskip("bitsandbytes")
    small = LocalPolicy.from_pretrained(
        str(folder), device="cpu", quantization="4bit", dtype="float32", max_new_tokens=12
    )
    assert play(small, [0, 1], turns=2)


def test_a_chat_template_is_a_file_or_the_template_itself(tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "t.jinja").write_text(text)
    assert read_template(str(tmp_path / "t.jinja")) == read_template(text) == text
    for wrong in ("no-such-file.jinja", str(tmp_path), "", "a\0b"):
        with pytest.raises(DataError, match="cannot read the chat template"):
            read_template(wrong)
