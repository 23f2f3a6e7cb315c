"""KTO: sides that stand by themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers import make_pairs, run_dpo
from eto_gym.trainers.data.encoding import fingerprint
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories.pairs import PreferencePair
from tests.trainers.conftest import play
from tests.trainers.methods.dpo_parts import (
    QUICK,
    double_logps,
    double_model,
    loss_away_from_the_reference,
    new_trainer,
    token_rows,
)
from tests.trainers.processes import fork

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import TrainerControl, TrainerState, TrainingArguments  # noqa: E402

from eto_gym.trainers.methods.kto_origin import Origin  # noqa: E402
from eto_gym.trainers.methods.preference_losses import (  # noqa: E402
    log_ratios,
    preference_losses,
)


def end_step(origin: Origin, args: TrainingArguments) -> None:
    origin.on_step_end(args, TrainerState(), TrainerControl())


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
    end_step(trainer._origin, trainer.args)
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
    assert trainer._origin.state()["attributes"] == {"value": trainer.origin}


def kept_origins(workspace: Path) -> list[float]:
    """Return the origins of the checkpoints, in order."""
    found = {}
    for folder in workspace.glob("checkpoint-*"):
        state = json.loads((folder / "trainer_state.json").read_text())
        origin = state["stateful_callbacks"]["Origin"]["attributes"]
        found[state["global_step"]] = origin["value"]
    return [found[step] for step in sorted(found)]


def train_into(model: str, workspace: str) -> None:
    settings = replace(QUICK, loss="kto", micro_batch_size=2, share_prefix="off", save_every=1)
    agent = [play(n, good=False, rounds=1 + n % 2) for n in range(9)]
    pairs, _ = make_pairs(agent, [play(n, rounds=1 + n % 3) for n in range(9)])
    trainer = new_trainer(Path(model), token_rows(Path(model), pairs), settings, Path(workspace))
    trainer.train()


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_keeps_the_origin_of_one(tiny: Path, tmp_path: Path) -> None:
    """One of them writes it, for both."""
    train_into(str(tiny), str(tmp_path / "one"))
    fork(train_into, str(tiny), str(tmp_path / "two"))
    one, two = (kept_origins(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 2
    assert one == pytest.approx(two, rel=1e-3)
    assert all(one)


def test_the_origin_has_the_unit_of_what_it_is_compared_with(tmp_path: Path) -> None:
    """Two sides of 400 tokens: 20 nats up, which is 0.05 per token, and 4 nats down, -0.01."""
    sums = torch.tensor([20.0, -4.0], requires_grad=True)
    reference, tokens = torch.zeros(2), torch.tensor([400, 400])
    settings = DPOSettings(loss="kto", length_normalization=True, beta=40.0)
    origin = Origin()
    origin.note(log_ratios(sums.detach(), reference, tokens, settings))
    end_step(origin, TrainingArguments(str(tmp_path), use_cpu=True))
    assert origin.value == pytest.approx(0.02)  # and not 8 nats, before which every side is at rest
    loss = preference_losses(sums, reference, tokens, settings, origin.value)
    # 1 - s(40 (0.05 - 0.02)) and 1 - s(40 (0.02 + 0.01)), both 1 - s(1.2) = 0.2314752.
    assert loss.tolist() == pytest.approx([0.2314752])
    (gradient,) = torch.autograd.grad(loss.sum(), sums)
    slope = 0.2314752 * (1 - 0.2314752) * 40 / 400 / 2
    assert gradient.tolist() == pytest.approx([-slope, slope])
    plain = replace(settings, length_normalization=False, beta=0.1)
    assert log_ratios(sums, reference, tokens, plain).tolist() == [20.0, -4.0]
