"""Cheap recomputation: the same losses and gradients, and no product or attention done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import SFTSettings, run_sft
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trajectories import Trajectory

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("rank", [0, 4])
def test_losses_and_gradients_are_the_same(
    tiny: Path, make_play: Callable[..., Trajectory], tmp_path: Path, rank: int
) -> None:
    plays = [make_play(n, rounds=1 + n % 4) for n in range(6)]

    def train(cheap: bool) -> list[tuple[float, float]]:
        settings = SFTSettings(
            learning_rate=3e-3,
            max_steps=3,
            batch_size=6,
            micro_batch_size=3,
            lora_r=rank,
            recompute_cheap=cheap,
        )
        output = tmp_path / f"out-{cheap}"
        report = run_sft(settings, plays, model=tiny, output=output, watch=Watch(progress=False))
        return [(entry["loss"], entry["grad_norm"]) for entry in report.metrics]

    for cheap, plain in zip(train(True), train(False), strict=True):
        assert cheap == pytest.approx(plain, rel=1e-6)


def test_only_what_is_cheap_comes_again(tiny: Path) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import AutoModelForCausalLM

    from eto_gym.trainers.model.recompute import recompute_cheap

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.calls: Counter[str] = Counter()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls[func.overloadpacket.__name__] += 1
            return func(*args, **(kwargs or {}))

    def backward_calls(cheap: bool) -> Counter[str]:
        model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).train()
        if cheap:
            recompute_cheap(model)
        logits = model(input_ids=torch.arange(2, 22)[None], use_cache=False).logits
        count = Count()
        with count:
            logits.logsumexp(-1).sum().backward()
        return count.calls

    plain, cheap = backward_calls(False), backward_calls(True)
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    assert plain["silu"] == plain["rsqrt"] == 0 < cheap["silu"] < cheap["rsqrt"]
    assert cheap["mm"] == plain["mm"] > 0
    assert cheap[attention] == plain[attention] == 0
    assert cheap[f"{attention}_backward"] == plain[f"{attention}_backward"] > 0


def test_both_ways_of_recomputing_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="recompute_cheap"):
        SFTSettings(recompute_cheap=True, gradient_checkpointing=True)


def test_with_dropout_the_same_numbers_are_drawn_again() -> None:
    transformers = pytest.importorskip("transformers")
    from eto_gym.trainers.model.recompute import recompute_cheap

    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, embd_pdrop=0.5)
    model = transformers.GPT2LMHeadModel(config).double().train()

    def gradients() -> list[Any]:
        model.zero_grad()
        torch.manual_seed(1)
        model(torch.arange(12)[None], use_cache=False).logits.logsumexp(-1).sum().backward()
        return [weight.grad.clone() for weight in model.parameters()]

    plain = gradients()
    recompute_cheap(model)
    torch.testing.assert_close(gradients(), plain)


def test_attention_that_draws_numbers_is_computed_again() -> None:
    """Kept, it would draw none the second time, and what follows it would draw its numbers."""
    from torch.utils.checkpoint import CheckpointPolicy

    from eto_gym.trainers.model.recompute import _ATEN, KEPT, _policy

    def kept(operation: Any, *args: Any, **kwargs: Any) -> bool:
        return _policy(None, operation, *args, **kwargs) is CheckpointPolicy.MUST_SAVE

    for operation in KEPT:
        assert kept(operation, None, None, None)
    flash = _ATEN._scaled_dot_product_flash_attention.default
    memory = _ATEN._scaled_dot_product_efficient_attention.default
    assert kept(flash, None, None, None, 0.0)
    assert not kept(flash, None, None, None, 0.1, True)
    assert kept(memory, None, None, None, None, True)
    assert not kept(memory, None, None, None, None, True, 0.1)
    assert not kept(memory, None, None, None, None, True, dropout_p=0.1)
    assert not kept(_ATEN.add.Tensor, None, None)
