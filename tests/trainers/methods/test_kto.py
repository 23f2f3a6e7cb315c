"""KTO: sides that stand by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers import run_dpo
from eto_gym.trainers.data.encoding import fingerprint
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories.pairs import PreferencePair
from tests.trainers.methods.dpo_parts import (
    QUICK,
    double_logps,
    double_model,
    loss_away_from_the_reference,
    new_trainer,
    token_rows,
)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from accelerate import Accelerator  # noqa: E402

from eto_gym.trainers.methods.kto_origin import Origin  # noqa: E402
from eto_gym.trainers.methods.preference_losses import (  # noqa: E402
    log_ratios,
    preference_losses,
)


@pytest.mark.parametrize(
    ("share_prefix", "per_token"), [("on", False), ("off", False), ("off", True)]
)
def test_kto_takes_sides_that_stand_by_themselves(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path, share_prefix: str, per_token: bool
) -> None:
    """A success alone, two failures alone, and a pair, against float64 values."""
    single = [replace(pairs[0], rejected=())]
    single += [replace(pair, chosen=()) for pair in pairs[1:3]]
    rows = token_rows(tiny, [*single, pairs[3]])
    settings = replace(QUICK, loss="kto", undesirable_weight=1.5, share_prefix=share_prefix)
    settings = replace(settings, length_normalization=per_token)
    trainer = new_trainer(tiny, rows, settings, tmp_path)
    assert trainer._origin is not None
    loss = loss_away_from_the_reference(trainer)

    policy, reference = double_model(tiny, 0.01), double_model(tiny)
    expected = torch.zeros((), dtype=torch.float64)
    ratios = []
    for row in rows:
        terms = []
        for side, sign, weight in ((row.sides[0], 1, 1.0), (row.sides[1], -1, 1.5)):
            for part in side:
                ratio = double_logps(policy, part.ids, part.mask)
                ratio = ratio - double_logps(reference, part.ids, part.mask).detach()
                ratio = ratio / part.trained if per_token else ratio
                ratios.append(float(ratio))
                gap = sign * settings.beta * (ratio - 0.25)
                terms.append(weight * (1 - torch.sigmoid(gap)))
        expected = expected + sum(terms) / len(terms) / len(rows)
    expected.backward()
    assert len(ratios) == 5
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        exact = policy.get_parameter(name).grad
        assert torch.allclose(parameter.grad.double(), exact, rtol=1e-3, atol=3e-5), name
    trainer._origin.begin_batch(trainer.accelerator)
    mean = sum(ratios) / 5
    assert trainer._origin.value == pytest.approx(max(0.0, mean), abs=1e-5)
    noted = {name: len(values) for name, values in trainer._noted.items()}
    assert (noted["logps/chosen"], noted["logps/rejected"]) == (2, 3)
    assert (noted["rewards/chosen"], noted["rewards/rejected"], noted["rewards/margins"]) == (
        2,
        3,
        1,
    )


def test_sides_by_themselves_are_for_kto_alone(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    single = [replace(pairs[0], rejected=()), replace(pairs[1], chosen=())]
    with pytest.raises(DataError, match="2 successes or failures stand by themselves"):
        run_dpo(QUICK, single, model=tiny, output=tmp_path / "out")
    rows = token_rows(tiny, single)
    swapped = token_rows(tiny, [replace(p, chosen=p.rejected, rejected=p.chosen) for p in single])
    assert fingerprint(rows) != fingerprint(swapped)


def test_the_origin_of_kto_is_the_batch_before_whatever_the_micro_batches(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    rows = token_rows(tiny, pairs)
    found = []
    for size in (4, 2):
        settings = replace(QUICK, loss="kto", micro_batch_size=size, share_prefix="off")
        trainer = new_trainer(tiny, rows, settings, tmp_path / str(size))
        trainer.train()
        found.append(trainer.origin)
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-7)
    kept = trainer._origin.state()["attributes"]
    assert kept["value"] == trainer.origin
    assert kept["total"][1] == 2 * (len(rows) % 4 or 4), "the last batch waits to be taken stock of"


def test_the_origin_has_the_unit_of_what_it_is_compared_with() -> None:
    """Two sides of 400 tokens: 20 nats up, which is 0.05 per token, and 4 nats down, -0.01."""
    sums = torch.tensor([20.0, -4.0], requires_grad=True)
    reference, tokens = torch.zeros(2), torch.tensor([400, 400])
    settings = DPOSettings(loss="kto", length_normalization=True, beta=40.0)
    origin = Origin()
    origin.note(log_ratios(sums.detach(), reference, tokens, settings))
    origin.begin_batch(Accelerator())
    assert origin.value == pytest.approx(0.02)  # and not 8 nats, before which every side is at rest
    loss = preference_losses(sums, reference, tokens, settings, origin.value)
    # 1 - s(40 (0.05 - 0.02)) and 1 - s(40 (0.02 + 0.01)), both 1 - s(1.2) = 0.2314752.
    assert loss.tolist() == pytest.approx([0.2314752])
    (gradient,) = torch.autograd.grad(loss.sum(), sums)
    slope = 0.2314752 * (1 - 0.2314752) * 40 / 400 / 2
    assert gradient.tolist() == pytest.approx([-slope, slope])
    plain = replace(settings, length_normalization=False, beta=0.1)
    assert log_ratios(sums, reference, tokens, plain).tolist() == [20.0, -4.0]
