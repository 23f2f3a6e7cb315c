from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers import make_pairs
from eto_gym.trainers.loops.mixture import MixtureLoop
from eto_gym.trainers.methods.mixture import run_mixture
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import PairingSettings, StepSettings
from eto_gym.trainers.settings.loops import MixtureLoopSettings
from eto_gym.trainers.settings.methods import MixtureSettings, SFTSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair
from tests.trainers.locks import MUON, PLAY, assert_learnt

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

Play = Callable[..., Trajectory]

QUICK = MixtureSettings(
    learning_rate=1e-3, epochs=1, batch_size=4, micro_batch_size=2, max_length=512, warmup_ratio=0
)


@pytest.fixture(scope="module")
def kinds(make_play: Play) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Three pairs of whole episodes, and five of steps."""
    good = [make_play(n, rounds=2) for n in range(8)]
    bad = [make_play(n, good=False, rounds=2) for n in range(8)]
    pairs, _ = make_pairs(bad, good)
    steps = [
        replace(
            pair,
            prompt=pair.prompt + pair.chosen[:2],
            chosen=pair.chosen[2:],
            rejected=pair.rejected[2:],
        )
        for pair in pairs[3:]
    ]
    return pairs[:3], steps


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.0)], ids=["as-published", "other"]
)
def test_an_epochs_loss_is_the_weighted_sum_of_the_means(
    tiny: Path,
    kinds: tuple[list[PreferencePair], list[PreferencePair]],
    tmp_path: Path,
    weights: tuple[float, float, float],
) -> None:
    from eto_gym.trainers.data.encoding import TokenPair, encode_pairs
    from eto_gym.trainers.methods.mixture import MixtureTrainer
    from eto_gym.trainers.model.models import default_codec, load_for_training, load_tokenizer

    outcome, step, sft = weights
    settings = replace(QUICK, outcome_weight=outcome, step_weight=step, sft_weight=sft)
    tokenizer = load_tokenizer(tiny)
    rows = [encode_pairs(default_codec(tokenizer), pairs, max_length=512)[0] for pairs in kinds]
    trainer: Any = MixtureTrainer(
        settings,
        model=load_for_training(tiny, settings),
        outcomes=rows[0],
        steps=rows[1],
        tokenizer=tokenizer,
        workspace=tmp_path,
    )
    reference = load_for_training(tiny, settings)
    generator = torch.Generator().manual_seed(5)
    for parameter in trainer.model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    batch = trainer._collate(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(8))

    def logp(model: Any, row: Any) -> float:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        return float(sum(scores[i - 1, row.ids[i]] for i, kept in enumerate(row.mask) if kept))

    def preference(row: TokenPair) -> float:
        sides = (row.chosen, row.rejected)
        gains = [logp(trainer.model, side) - logp(reference, side) for side in sides]
        gap = torch.tensor(settings.beta * (gains[0] - gains[1]), dtype=torch.float64)
        return float(-torch.nn.functional.logsigmoid(gap))

    means = [sum(map(preference, part)) / len(part) for part in rows]
    imitation = [-logp(trainer.model, row.chosen) / row.chosen.trained for row in rows[0]]
    expected = outcome * means[0] + step * means[1] + sft * sum(imitation) / len(imitation)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_a_missing_kind_is_refused_unless_it_has_no_weight(
    tiny: Path, kinds: tuple[list[PreferencePair], list[PreferencePair]], tmp_path: Path
) -> None:
    outcomes, steps = kinds
    with pytest.raises(DataError, match="no pair of steps"):
        run_mixture(QUICK, outcomes, [], model=tiny, output=tmp_path / "out")
    with pytest.raises(DataError, match="no pair of whole episodes"):
        run_mixture(QUICK, [], steps, model=tiny, output=tmp_path / "out")
    with pytest.raises(SettingsError):
        MixtureSettings(outcome_weight=0, step_weight=0)
    with pytest.raises(SettingsError):
        MixtureSettings(step_weight=-1)


def test_it_learns_from_both_kinds(locksmith: Path, tmp_path: Path) -> None:
    settings = MixtureLoopSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=64,
        control=False,
        sft=SFTSettings(**{**MUON, "muon_learning_rate": 1e-4, "learning_rate": 1e-4}, epochs=1),
        pairing=PairingSettings(),
        steps=StepSettings(rollouts=3),
        mixture=MixtureSettings(
            learning_rate=3e-3, adam_beta2=0.95, epochs=3, batch_size=16, micro_batch_size=16,
            max_length=256,
        ),
    )  # fmt: skip
    report = MixtureLoop(settings, tmp_path).run()
    assert_learnt(report, "mixture, iteration 1")
