from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError, UnknownNameError
from eto_gym.prompt import Message
from eto_gym.trainers import DPOSettings, make_pairs, run_dpo
from eto_gym.trainers.data.encoding import (
    TokenPair,
    TokenReport,
    TokenRow,
    encode_pairs,
)
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trajectories.pairs import PreferencePair
from tests.trainers.methods.dpo_parts import (
    QUICK,
    Play,
    codec_of,
    double_logps,
    double_model,
    loss_away_from_the_reference,
    new_trainer,
    perturb,
    token_rows,
)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_only_the_agents_tokens_are_marked(tiny: Path, pairs: list[PreferencePair]) -> None:
    codec = codec_of(tiny)
    for pair, row in zip(pairs, token_rows(tiny, pairs), strict=True):
        for side, messages in ((row.chosen, pair.chosen), (row.rejected, pair.rejected)):
            marked = [i for i, kept in zip(side.ids, side.mask, strict=True) if kept]
            replies = [m.content + "<|end|>" for m in messages if m.role == "assistant"]
            assert codec.tokenizer.decode(marked) == "".join(replies)


@pytest.mark.parametrize(
    "settings",
    [
        QUICK,
        replace(QUICK, beta=0.5, label_smoothing=0.1),
        replace(QUICK, loss="hinge"),
        replace(QUICK, loss="ipo"),
        replace(QUICK, sft_weight=0.3),
        replace(QUICK, length_normalization=True, beta=2.0),
        replace(QUICK, loss="dpop", positive_weight=5.0),
        replace(QUICK, loss="dmpo", turn_discount=0.7),
        replace(QUICK, loss="kto", undesirable_weight=1.5),
        replace(QUICK, loss="simpo", beta=2.0, target_margin=0.6),
        replace(QUICK, loss="orpo", beta=0.3),
        replace(QUICK, loss="dmpo", turn_discount=0.7, share_prefix="off"),
    ],
    ids=lambda s: f"{s.loss}-{s.share_prefix}",
)
def test_loss_and_gradient_equal_hand_computed_doubles(
    tiny: Path,
    pairs: list[PreferencePair],
    tmp_path: Path,
    settings: DPOSettings,
) -> None:
    rows = token_rows(tiny, pairs)[:4]
    trainer = new_trainer(tiny, rows, settings, tmp_path)
    loss = loss_away_from_the_reference(trainer)

    policy, reference = double_model(tiny, 0.01), double_model(tiny)
    expected = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ratios, means = [], []
        discount = settings.turn_discount if settings.loss == "dmpo" else None
        for side in (row.chosen, row.rejected):
            ratio = double_logps(policy, side.ids, side.mask, discount)
            means.append(ratio / sum(side.mask))
            ratio = ratio - double_logps(reference, side.ids, side.mask, discount).detach()
            ratios.append(ratio / sum(side.mask) if settings.length_normalization else ratio)
        gap = ratios[0] - ratios[1]
        margin = settings.beta * gap
        if settings.loss == "hinge":
            term = (1 - margin).clamp(min=0)
        elif settings.loss == "ipo":
            term = (gap - 1 / (2 * settings.beta)) ** 2
        elif settings.loss == "dpop":
            fallen = torch.maximum(-ratios[0], torch.zeros(()))
            term = -torch.log(torch.sigmoid(settings.beta * (gap - 5.0 * fallen)))
        elif settings.loss == "kto":
            good = 1 - torch.sigmoid(settings.beta * (ratios[0] - 0.25))
            bad = 1 - torch.sigmoid(settings.beta * (0.25 - ratios[1]))
            term = (good + 1.5 * bad) / 2
        elif settings.loss == "simpo":
            term = -torch.log(torch.sigmoid(2.0 * means[0] - 2.0 * means[1] - 0.6))
        elif settings.loss == "orpo":
            odds = [torch.exp(mean) / (1 - torch.exp(mean)) for mean in means]
            term = -means[0] - 0.3 * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1])))
        else:
            smooth = settings.label_smoothing
            term = -(1 - smooth) * torch.log(torch.sigmoid(margin))
            term = term - smooth * torch.log(torch.sigmoid(-margin))
        if settings.sft_weight:
            chosen = double_logps(policy, row.chosen.ids, row.chosen.mask)
            term = term - settings.sft_weight * chosen / sum(row.chosen.mask)
        expected = expected + term / len(rows)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        exact = policy.get_parameter(name).grad
        assert torch.allclose(parameter.grad.double(), exact, rtol=1e-3, atol=3e-5), name


def test_reference_scores_equal_hand_computed_doubles(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    rows = token_rows(tiny, pairs)
    trainer = new_trainer(tiny, rows, QUICK, tmp_path)
    model = double_model(tiny)
    for row, item in zip(rows, trainer.train_dataset, strict=True):
        for name in ("chosen", "rejected"):
            side = getattr(row, name)
            exact = double_logps(model, side.ids, side.mask).item()
            assert item[f"ref_{name}_logps"] == pytest.approx(exact, rel=1e-5)


def test_observations_never_enter_the_loss(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    """The output layer sees the states before the agent's tokens, and no other state."""
    rows = token_rows(tiny, pairs)[:3]
    trainer = new_trainer(tiny, rows, replace(QUICK, share_prefix="off"), tmp_path)
    batch = trainer._collate(list(trainer.train_dataset))
    states: list[Any] = []

    def keep(_: Any, inputs: tuple[Any, ...], __: Any) -> None:
        states.append(inputs[0])

    with_hook = trainer.model.get_output_embeddings().register_forward_hook(keep)
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(3))
    with_hook.remove()
    loss.backward()
    trained = sum(sum(side.mask) for row in rows for side in (row.chosen, row.rejected))
    assert [len(state) for state in states] == [trained]
    total = sum(len(side.ids) for row in rows for side in (row.chosen, row.rejected))
    assert trained < total / 2

    # What follows the last trained token of a side is padding, and may be any token.
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    for index, labels in enumerate(batch["labels"]):
        end = int(torch.nonzero(labels != -100).max()) + 1
        changed["input_ids"][index, end:] = 7
    again = trainer.compute_loss(trainer.model, changed, num_items_in_batch=torch.tensor(3))
    assert again.item() == pytest.approx(loss.item(), abs=1e-6)


def test_counting_observations_would_change_the_loss(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    """The check above has teeth: marking observations as trained moves the loss."""
    rows = [row for row in token_rows(tiny, pairs) if len(row.rejected.ids) > 80][:3]

    def everything(side: TokenRow) -> TokenRow:
        return side._replace(mask=[False] + [True] * (len(side.ids) - 1))

    wrong = [TokenPair(everything(row.chosen), everything(row.rejected)) for row in rows]
    losses = []
    for name, chosen_rows in (("right", rows), ("wrong", wrong)):
        trainer = new_trainer(tiny, chosen_rows, QUICK, tmp_path / name)
        perturb(trainer.model, 0.01)
        batch = trainer._collate(list(trainer.train_dataset))
        losses.append(trainer.compute_loss(trainer.model, batch, num_items_in_batch=3).item())
    assert abs(losses[0] - losses[1]) > 1e-3


def _losses(
    tiny: Path, pairs: list[PreferencePair], output: Path, settings: DPOSettings
) -> list[float]:
    report = run_dpo(settings, pairs, model=tiny, output=output, watch=Watch(progress=False))
    return [entry["loss"] for entry in report.metrics]


def test_micro_batches_do_not_change_the_losses(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    # Ten pairs: the last batch of four is smaller, and must be averaged over two pairs.
    whole = _losses(tiny, pairs, tmp_path / "4x1", replace(QUICK, micro_batch_size=4, epochs=2))
    parts = _losses(tiny, pairs, tmp_path / "1x4", replace(QUICK, micro_batch_size=1, epochs=2))
    assert len(whole) == 6
    assert whole == pytest.approx(parts, rel=1e-4)


def test_same_seed_gives_the_same_losses(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    first = _losses(tiny, pairs, tmp_path / "a", QUICK)
    assert first == _losses(tiny, pairs, tmp_path / "b", QUICK)
    assert first != _losses(tiny, pairs, tmp_path / "c", replace(QUICK, seed=1))


def test_precomputed_reference_equals_the_model_kept_in_memory(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    once = _losses(tiny, pairs, tmp_path / "once", QUICK)
    each = _losses(tiny, pairs, tmp_path / "each", replace(QUICK, precompute_reference=False))
    assert once == pytest.approx(each, rel=1e-5)


def test_training_raises_the_margin(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    report = run_dpo(
        replace(QUICK, epochs=6),
        pairs,
        model=tiny,
        output=tmp_path / "out",
        watch=Watch(progress=False),
    )
    first, last = report.metrics[0], report.metrics[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert last["rewards/margins"] > 1
    assert last["rewards/accuracies"] == 1
    assert last["loss"] < 0.4
    assert last["rewards/margins"] == pytest.approx(
        last["rewards/chosen"] - last["rewards/rejected"], abs=1e-4
    )
    # What was written is what was trained: the margin holds for the model on disk.
    new, old = _load(tmp_path / "out"), _load(tiny)
    margins = []
    for row in token_rows(tiny, pairs):
        ratios = [
            (double_logps(new, side.ids, side.mask) - double_logps(old, side.ids, side.mask))
            for side in (row.chosen, row.rejected)
        ]
        margins.append(0.1 * (ratios[0] - ratios[1]).item())
    assert sum(margins) / len(margins) > 1
    stored = json.loads((tmp_path / "out" / "training.json").read_text())
    assert stored["method"] == "dpo"
    assert stored["metrics"] == report.metrics


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return model.eval()


def test_long_sides_are_refused_or_cut_at_turns(
    tiny: Path, make_play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    pairs, _ = make_pairs([make_play(0, good=False, rounds=8)], [make_play(0, rounds=3)])
    (row,), _ = encode_pairs(codec_of(tiny), pairs, max_length=512)
    limit = len(row.rejected.ids) - 1
    with pytest.raises(DataError, match=r"1 conversations are longer than max_length"):
        encode_pairs(codec_of(tiny), pairs, max_length=limit)
    (cut,), report = encode_pairs(codec_of(tiny), pairs, max_length=limit, truncation="cut")
    assert cut.chosen == row.chosen
    assert cut.rejected.ids == row.rejected.ids[: len(cut.rejected.ids)]
    assert cut.rejected.mask[-1]
    assert (report.cut, report.cut_turns) == (1, 1)
    assert (report.cut_chosen, report.cut_rejected) == (0, 1)
    assert report.cut_tokens == len(row.rejected.ids) - len(cut.rejected.ids) > 0
    assert report.losses == [("task-0", "rejected", limit + 1, 8, 7)]
    with caplog.at_level(logging.WARNING, logger="eto_gym"):
        report.log("dpo")
    assert "1 conversation cut at the end to max_length (0 chosen, 1 rejected)" in caplog.text
    assert "losing 1 agent turns" in caplog.text
    # A side that loses everything takes the pair with it, and is counted all the same.
    prompt = row.chosen.ids[: row.chosen.mask.index(True)]
    both = [*pairs, *make_pairs([make_play(1, good=False)], [make_play(1, rounds=1)])[0]]
    short = len(prompt) + 20
    kept, report = encode_pairs(codec_of(tiny), both, max_length=short, truncation="cut")
    assert report.rows == len(kept)
    assert len(kept) + report.dropped + report.identical == 2
    assert TokenReport.from_json(json.loads(json.dumps(asdict(report)))) == report


def test_a_mark_in_the_prompt_is_not_trained(tiny: Path, pairs: list[PreferencePair]) -> None:
    marked = replace(
        pairs[0],
        prompt=tuple(
            Message(m.role, m.content, train=m.role == "assistant") for m in pairs[0].prompt
        ),
    )
    assert token_rows(tiny, [marked]) == token_rows(tiny, pairs[:1])


def test_unusable_pairs_are_refused(tiny: Path, pairs: list[PreferencePair]) -> None:
    with pytest.raises(DataError, match="no pair to train on"):
        encode_pairs(codec_of(tiny), [], max_length=512)
    same = replace(pairs[0], rejected=pairs[0].chosen)
    with pytest.raises(DataError, match="1 with identical sides"):
        encode_pairs(codec_of(tiny), [same], max_length=512)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError):
        DPOSettings(loss="sigmod")
    with pytest.raises(SettingsError, match="beta"):
        DPOSettings(beta=0)
    with pytest.raises(SettingsError, match="label_smoothing"):
        DPOSettings(loss="ipo", label_smoothing=0.1)


def test_settings_of_one_loss_name_no_stage_of_another() -> None:
    from eto_gym.trainers.settings.base import deciding

    added = {"positive_weight", "turn_discount", "undesirable_weight", "target_margin"}
    assert not added & set(deciding(QUICK))
    assert deciding(replace(QUICK, turn_discount=0.5))["turn_discount"] == 0.5
    for wrong in ({"turn_discount": 1.0}, {"loss": "dmpo", "sft_weight": 0.1}):
        with pytest.raises(SettingsError):
            replace(QUICK, **wrong)
