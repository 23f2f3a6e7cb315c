"""The panel of methods: its rows are settings that exist, and its table says what was spent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.benchmarks.methods import panel
from eto_gym.benchmarks.methods.budget import Budget, Lengths, within
from eto_gym.benchmarks.methods.panel import PANEL, played_steps, settings_of
from eto_gym.benchmarks.methods.tables import Outcome, show
from eto_gym.errors import DataError
from eto_gym.trainers.settings.base import SettingsError, deciding, known_before
from eto_gym.trainers.settings.methods import GroupSettings, SFTSettings
from eto_gym.trainers.settings.presets import PRESETS
from eto_gym.trajectories import Step, Trajectory


@pytest.mark.parametrize("name", PANEL)
def test_every_row_is_a_method_with_settings_of_its_own(name: str) -> None:
    values = {"train_tasks": 700, "seed": 3, "dpo.epochs": 1.0, "no_such": 1}
    settings = settings_of(PANEL[name], "ETO/ALFWorld-v0", "quickstart", values)
    assert (settings.train_tasks, settings.seed, settings.eval_start) == (700, 3, False)
    for path, value in PANEL[name].changes.items():
        place = settings
        for part in path.split("."):
            place = getattr(place, part)
        assert place == value


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("env", ["ETO/ALFWorld-v0", "ETO/WebShop-v0", "ETO/ScienceWorld-v0"])
def test_no_preset_has_what_a_row_refuses(env: str, preset: str) -> None:
    """A loss that takes no SFT term, say, beside a preset that gives the others one."""
    for method in PANEL.values():
        assert settings_of(method, env, preset, {}).env == env


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("seed", "NAME=VALUE"),
        ("sft.learning_rate=fast", "wrong kind"),
        ("no_such=1", "no_such"),
        ("env_options={task", "no YAML"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(
    word: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert panel.main(["--out", str(tmp_path), "--set", word]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert says in told[0]


def test_an_exponent_is_a_number() -> None:
    assert panel._values(["dpo.learning_rate=5e-6", "model=1e"]) == {
        "dpo.learning_rate": 5e-6, "model": "1e",
    }  # fmt: skip


@pytest.mark.parametrize("name", PANEL)
def test_a_budget_becomes_sizes_of_each_method(name: str) -> None:
    """Twice the budget is about twice the tasks, rounds or steps, and the tokens exactly."""
    method, lengths = PANEL[name], Lengths(episode=10.0, expert=8.0, tokens=50.0)
    settings = settings_of(method, "ETO/ALFWorld-v0", "quickstart", {"train_tasks": 5000})
    one, two = (
        within(Budget(20_000 * n, 1_000_000 * n), method.loop, settings, lengths) for n in (1, 2)
    )

    def counts(found: Any) -> list[int]:
        parts = [getattr(found, part, None) for part in ("dpo", "mixture", "world", "group", "ppo")]
        names = ("train_tokens", "max_steps", "rounds")
        sizes = [getattr(part, n, 0) for part in parts if part is not None for n in names]
        online = method.loop in ("grpo", "ppo")  # plays rounds, on as many tasks as ever
        own = () if online else ("explore_tasks", "step_tasks", "later_tokens")
        return [*sizes, *(getattr(found, n, 0) for n in own)]

    for a, b in zip(counts(one), counts(two), strict=True):
        assert b == pytest.approx(2 * a, rel=0.05, abs=1)
    if method.loop in ("grpo", "ppo"):
        part = getattr(one, "ppo" if method.loop == "ppo" else "group")
        rounds = part.rounds if method.loop == "ppo" else part.max_steps
        each = part.episodes if method.loop == "ppo" else part.batch_size
        assert rounds * each * 10 <= 20_000 * 1.05
    elif method.loop == "eto":
        assert one.explore_tasks * one.explore_samples * 10 == pytest.approx(20_000, rel=0.05)
        assert one.dpo.train_tokens == 1_000_000


def test_tokens_are_turned_into_steps_whatever_the_epochs() -> None:
    settings = SFTSettings(batch_size=8, train_tokens=10_000, epochs=7.0)
    assert settings.for_data(rows=80, tokens=8_000).max_steps == 12  # 800 tokens a step
    assert settings.for_data(rows=4, tokens=500).max_steps == 20  # fewer rows than a batch
    assert SFTSettings().for_data(rows=80, tokens=8_000) == SFTSettings()
    assert "train_tokens" not in {**deciding(SFTSettings()), **known_before(SFTSettings())}
    with pytest.raises(SettingsError, match="train_tokens is for sft and dpo"):
        GroupSettings(train_tokens=1)


def _episode(task: str, success: bool) -> Trajectory:
    return Trajectory(
        task_id=task, task_type="t", messages=(), steps=(Step("go", "Hm.", float(success)),),
        outcome="terminated", reward=float(success), success=success, error=None, policy="p",
        env={}, sample=0, seed=0,
    )  # fmt: skip


def test_tables_pair_each_method_with_sft_and_its_peers_over_seeds(tmp_path: Path) -> None:
    names = [str(i) for i in range(6)]
    found = {
        "sft": {0: Outcome([_episode(n, False) for n in names], 0, 0, "")},
        "eto": {0: Outcome([_episode(n, n != "0") for n in names], 120, 3000, "")},
        "kto": {0: Outcome([], 12, 0, "nothing to learn from")},
        "grpo": {
            0: Outcome([_episode(n, n in "02") for n in names], 120, 3000, ""),
            1: Outcome([_episode(n, True) for n in names], 120, 3000, ""),  # no other has this seed
        },
    }
    show(found, tmp_path)
    text = (tmp_path / "methods.md").read_text("utf-8")
    assert "| eto" in text
    assert "3,000" in text
    _, eto, grpo = json.loads((tmp_path / "methods.json").read_text("utf-8"))
    assert eto["env_steps"] == 120
    assert eto["success"] == pytest.approx(5 / 6)
    assert eto["against"]["sft"]["p"] == pytest.approx(2 * 0.5**5)
    assert set(grpo["against"]) == {"sft", "eto"}
    against = grpo["against"]["eto"]
    assert [against[key] for key in ("episodes", "gained", "lost")] == [6, 1, 4]
    assert against["reward"]["mean"] == pytest.approx(-3 / 6)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    table = rows[next(i for i, row in enumerate(rows) if row[0] == "against eto") :]
    assert next(row for row in table if row[0] == "grpo")[1:4] == ["6", "1", "4"]
    assert "kto, seed 0: nothing to learn from" in text


def test_only_steps_that_were_played_are_counted() -> None:
    """A branch holds the steps before it as well, which a snapshot put there."""
    whole = _episode("a", True)
    steps = whole.steps * 3
    forked = dataclasses.replace(
        whole, steps=steps, facts=({}, {"finish": "stop"}, {"finish": "stop"})
    )
    assert played_steps(dataclasses.replace(whole, steps=steps)) == 3
    assert played_steps(forked) == 2


def test_what_cannot_be_run_is_refused_before_anything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel, "run_one", lambda *_: pytest.fail("a method began"))
    for value, said in (
        ("no_such=1", "got 'no_such'"),
        ("steps.rollouts=0", "expected rollouts >= 1"),
        ("explore_tasks=9", "expected explore_tasks <= train_tasks"),
    ):
        words = ["--methods", "step-dpo", "--set", "train_tasks=3", value, "--out", str(tmp_path)]
        assert panel.main(words) == 2
        assert said in capsys.readouterr().err


def test_a_method_that_fails_does_not_end_the_panel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run_one(_: Any, name: str, settings: Any, *more: Any) -> None:
        ran.append((name, settings.seed))
        if name == "rft":
            raise DataError("the disk is full")
        more[-1].setdefault(name, {})[settings.seed] = Outcome([_episode("a", True)], 0, 0, "")

    monkeypatch.setattr(panel, "run_one", run_one)
    words = ["--methods", "rft", "kto", "--seeds", "4", "5", "--out", str(tmp_path)]
    assert panel.main(words) == 1
    assert ran == [(name, seed) for seed in (4, 5) for name in ("sft", "rft", "kto")]
    assert "rft, seed 5: the disk is full" in capsys.readouterr().out
