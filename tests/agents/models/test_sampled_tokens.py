"""What a rollout reads and samples is what training takes, token for token, for every family."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from eto_gym.errors import DataError, EtoGymError
from eto_gym.prompt import Message
from eto_gym.testing.fake_endpoint import FakeEndpoint
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.sampled import SampledTokens, chain_prompt, unchain
from tests.agents.models.chat_templates import REWRITING, STABLE
from tests.agents.models.test_chat_templates import make_codec
from tests.toy import make_corridor

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# ruff: noqa: E402
from eto_gym.agents.endpoint.policy import EndpointPolicy
from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.rollout.engine import Rollout, plan_episodes
from eto_gym.trainers.data.sampled import encode_sampled, rows_of

FAMILIES = {**STABLE, **REWRITING}
PER_FAMILY = int(os.environ.get("ETO_GYM_PER_FAMILY", "4"))
"""Trajectories of each family; 100 over all of them where nothing else is asked for."""


def play(codec: ChatCodec, *, count: int, history: str, **options: Any) -> list[Trajectory]:
    """Play with a random model of the codec's vocabulary; it says anything, in any tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(codec.tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4096,
            eos_token_id=codec.end_of_turn_id,
        )
        model = transformers.LlamaForCausalLM(config)
    policy = LocalPolicy(model, codec, temperature=1.0, max_new_tokens=6, **options)
    rollout = Rollout(lambda: make_corridor(max_episode_steps=3), policy, history=history)
    return list(rollout.play(plan_episodes(["door-0/0"], samples=count, seed=1)))


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_the_rollout_are_those_of_training(name: str) -> None:
    kind = "sentencepiece" if "mistral" in name or "llama-2" in name else "bytes"
    codec = make_codec(FAMILIES[name], kind)
    asked: list[tuple[list[int], list[int]]] = []
    act = LocalPolicy.act

    class Noting(LocalPolicy):
        def act(self, conversations: Any) -> Any:
            replies = act(self, conversations)
            asked.extend((list(r.prompt_ids), list(r.token_ids)) for r in replies)
            return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalPolicy, "act", Noting.act)
        for history, keep in (("full", True), ("last:1", False)):
            asked.clear()
            played = play(codec, count=PER_FAMILY, history=history, tokens="ids", keep_sampled=keep)
            assert len(played) == PER_FAMILY
            read = sorted((p, r) for t in played for p, r in _pairs(t))
            assert read == sorted(asked)  # the record is what the model met
            trained, report = encode_sampled(codec, played, max_length=4096)
            for trajectory, episode in zip(played, trained, strict=True):
                _check(trajectory, episode.rows)
                if history == "full" and name in STABLE:
                    assert len(episode.rows) == 1  # nothing is tokenised anew between replies
            assert report.trained_tokens == sum(len(r) for _, r in asked)
            if not keep:  # prompts are those of the conversation, as any server makes them
                for trajectory in played:
                    prompts = [p for p, _ in _pairs(trajectory)]
                    talks = [talk[:-1] for talk in _read(trajectory)]
                    assert prompts == [codec.generation_prompt(talk) for talk in talks]
            again = Trajectory.from_json(json.loads(json.dumps(played[0].to_json())))
            assert again.tokens == played[0].tokens


def _pairs(trajectory: Trajectory) -> list[tuple[list[int], list[int]]]:
    replies = [list(link.reply) for link in trajectory.tokens]
    return list(zip(unchain(trajectory.tokens), replies, strict=True))


def _read(trajectory: Trajectory) -> list[tuple[Message, ...]]:
    """Return what was read for each reply, and the reply."""
    found = []
    for talk in trajectory.as_sampled():
        places = [i for i, m in enumerate(talk) if m.role == "assistant" and m.train]
        found += [talk[: place + 1] for place in places]
    return found


def _check(trajectory: Trajectory, rows: list[Any]) -> None:
    """Every reply stands once, marked, right after its prompt; nothing else is marked."""
    met = [(prompt, reply) for prompt, reply in _pairs(trajectory)]
    found = []
    for row in rows:
        start = 0
        while True in row.mask[start:]:
            begin = row.mask.index(True, start)
            end = begin
            while end < len(row.mask) and row.mask[end]:
                end += 1
            found.append((row.ids[:begin], row.ids[begin:end]))
            start = end
    assert found == met


def test_log_probabilities_are_the_models() -> None:
    codec = make_codec(STABLE["chatml"], "bytes")
    policy: dict[str, Any] = {"tokens": "logprobs", "keep_sampled": True, "top_p": 0.9}
    trajectory, _ = play(codec, count=2, history="full", **policy)
    (row,) = rows_of(trajectory).rows
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(codec.tokenizer), hidden_size=16, intermediate_size=16,
            num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=4096,
            eos_token_id=codec.end_of_turn_id,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    scores = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    expected = [float(scores[i - 1, row.ids[i]]) for i in range(1, len(row.ids)) if row.mask[i]]
    told = [p for link in trajectory.tokens for p in link.logprobs]
    assert told == pytest.approx(expected, abs=1e-4)


def test_a_reply_that_was_cut_does_not_end_itself() -> None:
    codec = make_codec(STABLE["chatml"], "bytes")
    played = play(codec, count=8, history="full", tokens="ids", keep_sampled=True)
    cut = [
        (t, i)
        for t in played
        for i, fact in enumerate(t.facts)
        if fact["finish"] == "length" and i + 1 < len(t.steps)
    ]
    assert cut
    for trajectory, i in cut:
        reply, after = trajectory.tokens[i].reply, trajectory.tokens[i + 1]
        assert codec.end_of_turn_id not in reply
        assert after.prompt[0] == codec.end_of_turn_id  # the template's, and so not learnt
        row = rows_of(trajectory).rows[0]
        assert row.trained == sum(len(link.reply) for link in trajectory.tokens)


def test_what_is_too_long_is_refused_or_cut_after_whole_replies() -> None:
    codec = make_codec(STABLE["chatml"], "bytes")
    played = play(codec, count=1, history="full", tokens="ids", keep_sampled=True)
    whole = rows_of(played[0])
    limit = len(whole.rows[0].ids) - 1
    with pytest.raises(DataError, match="longer than max_length"):
        encode_sampled(codec, played, max_length=limit)
    (cut,), report = encode_sampled(codec, played, max_length=limit, truncation="cut")
    assert (cut.turns, report.cut_turns) == (2, 1)
    assert cut.rows[0].ids == whole.rows[0].ids[: len(cut.rows[0].ids)]
    assert cut.trained == [i for link in played[0].tokens[:2] for i in link.reply]
    (nothing,), report = encode_sampled(codec, played, max_length=3, truncation="cut")
    assert (nothing.rows, report.dropped) == ([], 1)
    # Without its tokens, an episode is made of its words.
    words = replace(played[0], tokens=())
    (made,), _ = encode_sampled(codec, [words], max_length=4096)
    assert made.turns == 3


def test_recorded_tokens_are_checked() -> None:
    chain = [chain_prompt([], [1, 2], [3]), chain_prompt([1, 2, 3], [1, 2, 4], [5])]
    assert chain[1] == SampledTokens(2, (4,), (5,))
    assert unchain(chain) == [[1, 2], [1, 2, 4]]
    with pytest.raises(DataError, match="share 9 tokens"):
        unchain([SampledTokens(9, (), (1,))])
    good = SampledTokens(0, (1,), (2,), (-0.5,)).to_json()
    for change in (
        {"kept": -1}, {"prompt": "x"}, {"reply": [True]}, {"logprobs": [0.0, 1.0]},
        {"logprobs": [float("nan")]}, {"more": 1},
    ):  # fmt: skip
        with pytest.raises(DataError):
            SampledTokens.from_json({**good, **change})


def test_a_server_that_tells_tokens_has_them_recorded() -> None:
    told: dict[str, Any] = {
        "choice": {"token_ids": [7, 8], "logprobs": {"content": [{"logprob": -1}] * 2}},
        "more": {"prompt_token_ids": [1, 2, 3]},
    }
    with (
        FakeEndpoint(**told) as server,
        EndpointPolicy(server.url, "m", tokens="logprobs", dialect="openai") as policy,
    ):
        rollout = Rollout(lambda: make_corridor(max_episode_steps=2), policy)
        (trajectory,) = rollout.play(plan_episodes(["door-3/3"]))
        request = server.requests[0]
    assert request["return_token_ids"] is True
    assert request["logprobs"] is True
    assert trajectory.tokens[0] == SampledTokens(0, (1, 2, 3), (7, 8), (-1.0, -1.0))
    with (
        FakeEndpoint() as server,
        EndpointPolicy(server.url, "m", tokens="ids", dialect="openai") as policy,
    ):
        rollout = Rollout(make_corridor, policy)
        with pytest.raises(EtoGymError, match="does not tell the token ids"):
            list(rollout.play(plan_episodes(["door-3/3"])))
