"""GRPO and RLOO on rows that share their beginnings: the numbers of padded rows, and of doubles."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eto_gym.errors import EtoGymError
from tests.trainers.methods.test_group import QUICK, _trainer, babbler  # noqa: F401

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from eto_gym.trainers.data.encoding import TokenRow  # noqa: E402
from eto_gym.trainers.methods.row_forests import RowForests  # noqa: E402
from eto_gym.trainers.model import scoring  # noqa: E402
from eto_gym.trainers.model.layout import LateSharing  # noqa: E402
from eto_gym.trainers.model.scoring import install_scorer  # noqa: E402

BETA, CLIP = 0.3, 0.05


def _loaded(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options)


def _by_hand(model: Any, episode: Any) -> tuple[Any, Any]:
    """Log-probabilities and entropies of what was sampled, from a pass for every row."""
    logps, entropies = [], []
    for row in episode.rows:
        said = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        places = [place for place, kept in enumerate(row.mask) if kept]
        logps += [said[place - 1, row.ids[place]] for place in places]
        entropies += [-(said[place - 1].exp() * said[place - 1]).sum() for place in places]
    return torch.stack(logps), torch.stack(entropies)


def _expected(algorithm: str, trainer: Any, batches: list[dict[str, Any]]) -> Any:
    """The loss of all micro-batches by the methods' definitions, in doubles."""
    episodes = trainer._source.episodes
    parts, tokens = [], 0
    for batch in batches:
        for row, number in enumerate(batch["episode"].tolist()):
            logps, _ = _by_hand(trainer.model, episodes[number])
            worth = batch["advantages"][row].double()
            if algorithm == "rloo":
                ratio = (logps.sum() - batch["old_logps"][row]).exp()
            else:
                ratio = (logps - batch["old_per_token_logps"][row, : len(logps)]).exp()
            loss = -torch.minimum(ratio * worth, ratio.clamp(1 - CLIP, 1 + CLIP) * worth)
            if algorithm == "grpo":
                moved = batch["ref_per_token_logps"][row, : len(logps)] - logps
                # TRL weighs the estimate by the ratio: what was sampled is of the old policy.
                loss = loss + BETA * (moved.exp() - moved - 1) * ratio
            parts.append(loss.sum())
            tokens += len(logps)
    return torch.stack(parts).sum() / (tokens if algorithm == "grpo" else len(parts))


def _micro_batches(trainer: Any) -> list[dict[str, Any]]:
    """Play, move the policy, and return the micro-batches of an optimizer step."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2  # transformers sets it when it trains
    names = trainer._source.player.task_ids[:2]
    trainer._prepare_inputs([{"prompt": name} for name in names for _ in range(4)])
    batches: list[dict[str, Any]] = trainer._buffered_inputs
    generator = torch.Generator().manual_seed(0)
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    for batch in batches:
        batch["advantages"] = torch.linspace(-1, 1, 8)[batch["episode"]]
        if "old_logps" not in batch:
            batch["old_per_token_logps"] = batch["ref_per_token_logps"] + 0.05
    return batches


@pytest.mark.parametrize(
    ("algorithm", "history", "lora_r"),
    [("grpo", "full", 0), ("grpo", "last:1", 4), ("rloo", "full", 4), ("rloo", "last:1", 0)],
)
def test_shared_beginnings_change_no_loss_and_no_gradient(
    babbler: Path,  # noqa: F811
    tmp_path: Path,
    algorithm: str,
    history: str,
    lora_r: int,
) -> None:
    """By definition in doubles, and as TRL's own pass has them, which is in single precision."""
    settings = replace(QUICK, max_length=512, beta=BETA, epsilon=CLIP, lora_r=lora_r)
    found = []
    for share in ("on", "off"):
        trainer = _trainer(
            algorithm, babbler, tmp_path / share, replace(settings, share_prefix=share), history
        )
        for model in (trainer.model, trainer.ref_model):
            if model is not None:
                model.double()
        batches = _micro_batches(trainer)
        assert trainer.notes == {"share_prefix": share}
        groups = [set((batch["episode"] // 4).tolist()) for batch in batches]
        losses = [trainer._compute_loss(trainer.model, batch) for batch in batches]
        # TRL's GRPO has divided by the tokens of all; for RLOO, transformers takes the mean.
        loss = torch.stack(losses).sum() / (1 if algorithm == "grpo" else 2)
        loss.backward()
        own = {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}
        trainer.model.zero_grad()
        metrics = trainer._metrics["train"]
        found.append((loss.item(), own, batches, trainer._source.rewards))
        if share == "off":
            continue
        assert groups in ([{0}, {1}], [{1}, {0}]), "a micro-batch holds what shares most"
        expected = _expected(algorithm, trainer, batches)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        for name, weight in trainer.model.named_parameters():
            if weight.requires_grad:
                torch.testing.assert_close(own[name], weight.grad, rtol=1e-5, atol=1e-9)
        hand = [_by_hand(trainer.model, episode)[1] for episode in trainer._source.episodes]
        means = [
            torch.cat([hand[number] for number in batch["episode"].tolist()]).mean().item()
            for batch in batches
        ]
        assert metrics["entropy"] == pytest.approx(means, rel=1e-5)
        assert 0 < sum(metrics["clip_ratio/region_mean"]) < len(batches)
    (loss, own, batches, rewards), (padded_loss, padded_own, padded_batches, padded_rewards) = found
    assert rewards == padded_rewards
    assert loss == pytest.approx(padded_loss, abs=1e-5)
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, padded_own[name], rtol=1e-4, atol=1e-5)
    name = "old_logps" if algorithm == "rloo" else "ref_per_token_logps"
    ours, theirs = (
        torch.cat([b[name] for b in some])[torch.cat([b["episode"] for b in some]).argsort()]
        for some in (batches, padded_batches)
    )
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-5, atol=1e-4)


def test_entropies_are_those_of_all_logits(
    babbler: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _loaded(babbler, dtype=torch.float64)
    install_scorer(model)
    ids = torch.arange(24).view(2, 12) * 7 % 270
    said = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    entropies = -(said.exp() * said).sum(-1).flatten()
    logps = said.gather(-1, ids[:, 1:, None]).flatten()
    for chunk in (scoring.CHUNK_BYTES, 4 * model.config.vocab_size * 5):  # 22 tokens, 5 at a time
        monkeypatch.setattr(scoring, "CHUNK_BYTES", chunk)
        found = model(input_ids=ids, score=ids, entropies=True)
        torch.testing.assert_close(found["token_entropies"], entropies)
        torch.testing.assert_close(found["token_logps"], logps)
        assert found["token_logps"].requires_grad
        assert not found["token_entropies"].requires_grad
        assert set(model(input_ids=ids, score=ids)) == {"token_logps"}


def test_a_model_whose_calls_are_wrapped_in_bf16_is_checked_without(
    babbler: Path,  # noqa: F811
) -> None:
    model = _loaded(babbler)
    inner = model._original_forward = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return inner(*args, **kwargs)

    model.forward = forward
    install_scorer(model)


def _group(common: int, own: int) -> list[list[TokenRow]]:
    """Four episodes of a task, of one row each."""
    return [
        [TokenRow([*range(common), *[200 + n] * own], [False] * common + [True] * own)]
        for n in range(4)
    ]


def _other_task() -> list[list[TokenRow]]:
    return [
        [TokenRow([id_ + 1 for id_ in row.ids], row.mask) for row in episode]
        for episode in _group(150, 20)
    ]


def test_a_batch_is_shared_where_that_saves_enough(
    babbler: Path,  # noqa: F811
) -> None:
    trainer = SimpleNamespace()
    forests = RowForests(trainer, _loaded(babbler), "auto", pad_id=0)
    assert forests.decide(_group(150, 20), 4)
    assert forests.sharing.notes == {"share_prefix": "on: saves 66% of the tokens, 112 of each row"}
    assert not forests.decide(_group(20, 20), 4), "15 tokens of each row are not worth a tree"
    assert forests.sharing.notes["share_prefix"].startswith("off: saves 38% of the tokens, 15 of")
    assert not forests.decide(_group(150, 20), 1), "alone in its micro-batch, none shares"
    mixed = [
        episode for pair in zip(_group(150, 20), _other_task(), strict=True) for episode in pair
    ]
    assert forests.decide(mixed, 4)
    assert forests.sharing.notes["share_prefix"].startswith("on: saves 66%"), "a task in each pass"
    assert forests.order(mixed, range(8)) == [0, 2, 4, 6, 1, 3, 5, 7]
    assert not forests.decide(mixed, 2, [[0, 1], [2, 3], [4, 5], [6, 7]]), "never in one step"
    assert not forests.decide([[], []], 1), "episodes without rows"
    assert forests.decide([[], *_group(150, 20)], 5)
    assert RowForests(trainer, _loaded(babbler), "on", pad_id=0).decide(_group(20, 20), 1)
    off = RowForests(trainer, _loaded(babbler), "off", pad_id=0)
    assert not off.decide(_group(150, 20), 4)
    assert off.sharing.notes == {"share_prefix": "off"}


def test_a_model_that_cannot_share_is_named_once(
    babbler: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "eto_gym.trainers.model.layout.install_trees", lambda _: "it has layers of type conv"
    )
    model = _loaded(babbler)
    forests = RowForests(SimpleNamespace(), model, "auto", pad_id=0)
    with caplog.at_level(logging.WARNING):
        assert not forests.decide(_group(20, 20), 4)
        assert not caplog.text, "nothing was to be saved"
        assert [forests.decide(_group(150, 20), 4) for _ in range(2)] == [False, False]
    assert caplog.text.count("cannot share what rows have in common: it has layers of") == 1
    assert forests.sharing.notes == {"share_prefix": "off: it has layers of type conv"}
    with pytest.raises(EtoGymError, match="layers of type conv"):
        LateSharing(model, "on")
    with pytest.raises(EtoGymError, match="loss of its routers"):
        LateSharing(model, "on", obstacle="the loss of its routers")
