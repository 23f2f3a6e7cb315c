from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError
from eto_gym.prompt import Message
from eto_gym.trainers import make_pairs
from eto_gym.trainers.data.curriculum import PhasedSampler, phases_of
from eto_gym.trainers.loops.mixture import MixtureLoop
from eto_gym.trainers.methods.mixture import run_mixture
from eto_gym.trainers.run.watch import Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import PairingSettings, StepSettings
from eto_gym.trainers.settings.loops import MixtureLoopSettings
from eto_gym.trainers.settings.methods import HPLSettings, MixtureSettings, SFTSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.formats import read_pair, to_paper_dpo
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
    "weights",
    [(1.0, 1.0, 1.0, 0.0), (0.5, 2.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)],
    ids=["IPR", "other", "HPL"],
)
def test_an_epochs_loss_is_the_weighted_sum_of_the_means(
    tiny: Path,
    kinds: tuple[list[PreferencePair], list[PreferencePair]],
    make_play: Play,
    tmp_path: Path,
    weights: tuple[float, float, float, float],
) -> None:
    """Each mean, and the likelihood of the chosen episodes, against float64 values."""
    from eto_gym.trainers.data.encoding import TokenPair, encode_pairs
    from eto_gym.trainers.methods.mixture import MixtureTrainer
    from eto_gym.trainers.model.models import default_codec, load_for_training, load_tokenizer

    outcome, step, sft, group = weights
    settings = replace(
        QUICK, outcome_weight=outcome, step_weight=step, sft_weight=sft, group_weight=group
    )
    good, bad = make_play(9, rounds=3), make_play(9, good=False, rounds=3)
    groups, _ = make_pairs([bad], [good])
    tokenizer = load_tokenizer(tiny)
    rows = [
        encode_pairs(default_codec(tokenizer), pairs, max_length=512)[0]
        for pairs in (*kinds, groups)[: 3 if group else 2]
    ]
    trainer: Any = MixtureTrainer(
        settings,
        model=load_for_training(tiny, settings),
        outcomes=rows[0],
        steps=rows[1],
        groups=rows[2] if group else (),
        tokenizer=tokenizer,
        workspace=tmp_path,
    )
    reference: Any = load_for_training(tiny, settings).double()
    generator = torch.Generator().manual_seed(5)
    for parameter in trainer.model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    policy = copy.deepcopy(trainer.model).double()
    batch = trainer._collate(list(trainer.train_dataset))
    count = torch.tensor(sum(map(len, rows)))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)

    def logp(model: Any, row: Any) -> float:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        return float(sum(scores[i - 1, row.ids[i]] for i, kept in enumerate(row.mask) if kept))

    def preference(row: TokenPair) -> float:
        sides = (row.chosen, row.rejected)
        gains = [logp(policy, side) - logp(reference, side) for side in sides]
        gap = torch.tensor(settings.beta * (gains[0] - gains[1]), dtype=torch.float64)
        return float(-torch.nn.functional.logsigmoid(gap))

    means = [sum(map(preference, part)) / len(part) for part in rows]
    imitation = [-logp(policy, row.chosen) / row.chosen.trained for row in rows[0]]
    expected = outcome * means[0] + step * means[1] + sft * sum(imitation) / len(imitation)
    expected += group * means[2] if group else 0.0
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def _group(length: int, gap: float) -> PreferencePair:
    reply, seen = Message("assistant", "go", train=True), Message("user", "on")
    return PreferencePair(
        task_id=f"{length}-{gap}",
        prompt=(seen,),
        chosen=(reply, seen) * (length - 1) + (reply,),
        rejected=(reply,),
        info={"chosen_value": gap, "rejected_value": 0.0},
    )


def test_groups_come_in_by_length_and_by_gap() -> None:
    groups = [_group(length, gap) for length in (1, 2, 3) for gap in (0.9, 0.5, 0.1)]
    assert phases_of(groups) == [0, 1, 2, 1, 2, 2, 2, 2, 2]
    assert phases_of([_group(3, gap) for gap in (0.1, 0.9, 0.5)]) == [2, 0, 1]  # of one length
    assert phases_of([read_pair(to_paper_dpo(pair)) for pair in groups]) == phases_of(groups)
    with pytest.raises(DataError, match="what its sides are worth"):
        phases_of([replace(groups[0], info={})])
    with pytest.raises(SettingsError, match="whole number of epochs"):
        HPLSettings(epochs=0.5)


def _sampler(**options: Any) -> PhasedSampler:
    """Return a sampler of two rows and four groups, in three phases."""
    lengths, phases = [9, 8, 1, 2, 3, 4], [0, 1, 2, 1]
    return PhasedSampler(lengths, phases=phases, micro_batch_size=2, seed=0, **options)


def test_a_phase_deals_its_groups_in_the_places_of_all() -> None:
    sampler = _sampler(passes=2, batch_size=2)
    seen = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        dealt = sorted(row for batch in sampler for row in batch)
        assert dealt[:2] == [0, 1]
        assert len(dealt) == 6
        seen.append({row - 2 for row in dealt[2:]})
    assert seen == [{0}, {0}, {0, 1, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}]


def test_groups_of_a_phase_are_put_in_order_by_their_own_ranks() -> None:
    ranks = [5, 4, 0, 3, 2, 1]
    sampler = _sampler(passes=1, batch_size=6, ranks=ranks)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        dealt = [row for batch in sampler for row in batch]
        assert dealt == sorted(dealt, key=ranks.__getitem__)


def test_the_phases_take_turns_in_training(
    tiny: Path, kinds: tuple[list[PreferencePair], list[PreferencePair]], tmp_path: Path
) -> None:
    outcomes, steps = kinds
    groups = [
        replace(pair, info={"chosen_value": float(n), "rejected_value": 0.0})
        for n, pair in enumerate(steps[:3])
    ]
    settings = HPLSettings(batch_size=4, micro_batch_size=4, max_length=512, learning_rate=1e-4)
    report = run_mixture(
        settings, outcomes[:2], steps[3:], groups, model=tiny, output=tmp_path / "out"
    )
    assert report.steps == 6, "three phases of a pass over seven pairs each"
    with pytest.raises(DataError, match="no pair of action groups"):
        run_mixture(settings, outcomes, steps, model=tiny, output=tmp_path / "out")


def test_failures_weigh_what_successes_do_where_kto_is_given_no_weight(
    tiny: Path, kinds: tuple[list[PreferencePair], list[PreferencePair]], tmp_path: Path
) -> None:
    """Pairs have as many of the one as of the other: 0 is then 1, and not no failure at all."""
    given = replace(QUICK, loss="kto", max_steps=1, reference_cache="none")
    reports = [
        run_mixture(
            replace(given, undesirable_weight=weight),
            *kinds,
            model=tiny,
            output=tmp_path / str(weight),
            watch=Watch(progress=False),
        )
        for weight in (0.0, 1.0, 0.5)
    ]
    assert reports[0].fingerprint == reports[1].fingerprint != reports[2].fingerprint
    told = json.loads((tmp_path / "0.0" / "training.json").read_text())
    assert told["settings"]["undesirable_weight"] == 1.0
    assert reports[0].final_loss == reports[1].final_loss


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


def test_steps_are_not_played_where_no_episodes_can_be_paired(
    locksmith: Path, tmp_path: Path
) -> None:
    quick: dict[str, Any] = {"epochs": 1, "max_steps": 1, "batch_size": 4}
    settings = MixtureLoopSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=4,
        control=False,
        sft=SFTSettings(**quick),
        pairing=PairingSettings(min_gap=2.0),  # more than rewards can differ by
        steps=StepSettings(rollouts=1),
        mixture=MixtureSettings(**quick),
    )
    report = MixtureLoop(settings, tmp_path).run()
    assert report["ended"].startswith("pairs-1 holds no pair to learn from")
    stages = [stage["name"] for stage in report["stages"]]
    assert "pairs-1" in stages
    assert not any(name.startswith("steps") for name in stages)
