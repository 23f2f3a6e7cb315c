"""Measures, Best-of-N and the report, against numbers worked out by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy import stats

from eto_gym.agents.evaluation.habits import habits
from eto_gym.agents.evaluation.measures import measure, summarise
from eto_gym.agents.evaluation.report import _paired_line, best_of, evaluate, render
from eto_gym.agents.evaluation.statistics import (
    compare,
    mean,
    proportion,
    student_quantile,
    success_rate,
)
from eto_gym.trajectories import Trajectory
from tests.agents.evaluation.test_evaluation import episode
from tests.growth import check_linear


def samples(task: str, rewards: Sequence[float | None], **changes: str) -> list[Trajectory]:
    """Episodes of one task; None is one that could not be played out."""
    made = []
    for i, reward in enumerate(rewards):
        failed = {"outcome": "error", "error": "timeout", "reward": 0.0}
        fields = failed if reward is None else {"reward": reward}
        made.append(episode(task, reward == 1.0, sample=i, **changes, **fields))
    return made


def test_values_of_one_group_count_as_one() -> None:
    values, groups = [0.0, 1.0, 1.0, 3.0], ["a", "a", "b", "b"]
    estimate = mean(values, groups)
    by_group = mean([0.5, 2.0])  # groups of even size: the mean of their means
    assert (estimate.mean, estimate.low) == pytest.approx((by_group.mean, by_group.low))
    assert mean(values, range(4)) == mean(values)
    assert mean([1.0, 2.0], ["a", "a"]).high == math.inf


def test_success_rates_of_repeated_tasks_are_less_sure() -> None:
    wins = [True, False] * 20
    alone = success_rate(wins, range(40))
    assert alone == proportion(20, 40)
    same = success_rate(wins, [i % 2 for i in range(40)])  # a task always, the other never
    assert same.high - same.low > 0.7 > alone.high - alone.low
    mixed = success_rate(wins, [i // 2 for i in range(40)])  # every task half of the time
    assert mixed == alone
    always = success_rate([True] * 40, [i // 4 for i in range(40)])
    assert always == proportion(10, 10)
    assert proportion(10, 10).high == 1.0


def test_pass_at_k_equals_the_average_over_all_choices() -> None:
    tasks = {"a": [1.0, 0.0, 0.0, 1.0], "b": [0.0, 0.0, 0.5, 0.0], "c": [0.0, 1.0, 0.0, 0.0]}
    report = best_of([t for name, rewards in tasks.items() for t in samples(name, rewards)], 4)
    assert list(report.pass_at) == [1, 2, 4]
    for k, chance in report.pass_at.items():
        wins = [
            sum(1.0 in chosen for chosen in itertools.combinations(rewards, k)) / math.comb(4, k)
            for rewards in tasks.values()
        ]
        assert chance.mean == pytest.approx(sum(wins) / 3)
    assert (report.tasks, report.incomplete) == (3, 0)
    assert report.reward.mean == pytest.approx(2.5 / 3)
    assert report.success.mean == pytest.approx(2 / 3)


def test_the_best_of_any_number_is_reported_at_once() -> None:
    played = samples("a", [1.0, 0.0])
    report = best_of(played, 1 << 60)
    assert (len(report.pass_at), report.tasks) == (61, 0)
    assert report.pass_at[1].mean == 0.5
    check_linear(lambda text: best_of(played * len(text), len(text)), "x".__mul__, 4_000)


def test_best_of_leaves_out_tasks_with_errors_and_says_so() -> None:
    episodes = [
        *samples("a", [1.0, 0.0]),
        *samples("b", [0.0, None]),
        *samples("c", [None, None]),
        *samples("d", [0.0, 0.5]),
    ]
    report = best_of(episodes, 2)
    assert (report.tasks, report.incomplete) == (2, 2)
    assert report.reward.mean == 0.75
    assert report.pass_at[1].mean == pytest.approx((0.5 + 0 + 0) / 3), "b has one sample"
    assert report.pass_at[2].mean == 0.5


def test_measures_keep_errors_apart() -> None:
    measures = measure(
        [
            episode("a", True, usage={"decoded_tokens": 10, "prefilled_tokens": 100}),
            episode("b", False, usage={"decoded_tokens": 30, "prefilled_tokens": 300}),
            episode("c", False, outcome="error", error="policy", usage={"decoded_tokens": 999}),
        ]
    )
    assert (measures.tasks, measures.episodes, measures.errors) == (2, 2, {"policy": 1})
    assert (measures.success.mean, measures.reward.mean, measures.steps.mean) == (0.5, 0.5, 2.0)
    assert (measures.read_tokens.mean, measures.generated_tokens.mean) == (200.0, 20.0)
    assert measures.format_errors == 0.5


def test_an_agent_that_outgrows_its_model_has_failed() -> None:
    full = episode("c", False, outcome="error", error="context")
    lost = episode("d", False, outcome="error", error="timeout")
    played = [episode("a", True), episode("b", False), full, lost]
    measures = measure(played)
    assert (measures.tasks, measures.episodes) == (3, 3)
    assert measures.errors == {"context": 1, "timeout": 1}
    assert measures.success.mean == pytest.approx(1 / 3)
    assert summarise(played)["episodes"] == 3
    assert "failed because they outgrew the model's context" in (text := render(evaluate(played)))
    assert "could not be played out: timeout 1." in text
    before = [episode(name, True) for name in "abcd"]
    assert compare(before, played).episodes == 3
    assert compare(before, played).lost == 2
    again = [replace(full, sample=1), replace(lost, sample=1)]
    assert best_of([*played, *again], 2).tasks == 1
    assert habits([full, lost]).replies == len(full.steps)


def test_paired_test_on_repeated_tasks_flips_whole_tasks() -> None:
    before = [t for i in range(6) for t in samples(f"t{i}", [0.0, 0.0])]
    after = [t for i in range(6) for t in samples(f"t{i}", [1.0, float(i < 2)])]
    test = compare(before, after)
    assert (test.episodes, test.gained, test.lost) == (12, 8, 0)
    assert test.p == pytest.approx(2 / 2**6)
    assert test.reward.mean == pytest.approx(8 / 12)
    once = compare(before[::2], after[::2])
    assert once.p == pytest.approx(stats.binomtest(6, 6).pvalue)


def test_students_quantile_is_scipys() -> None:
    freedoms = [*range(1, 40), 499, 500, 501, 502, 5_000, 10**6]
    expected = stats.t.ppf(0.975, freedoms)
    assert [student_quantile(n) for n in freedoms] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="degree of freedom"):
        student_quantile(0)


def test_the_report_is_json_and_a_table() -> None:
    episodes = [*samples("a", [1.0, 0.0]), *samples("b", [0.0, None], task_type="other")]
    report = evaluate(episodes, n=2)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["overall"]["generated_tokens"] == {"mean": None, "low": None, "high": None}
    assert set(data["by_type"]) == {"toy", "other"}
    assert data["best"]["pass_at"]["1"]["mean"] == 0.25
    text = render(report)
    assert "| other " in text
    assert "Not scored, because they could not be played out: timeout 1." in text
    assert "Left out: 1 tasks" in text


def test_a_comparison_says_which_way_it_went() -> None:
    won = [episode(f"t{i}", True, reward=1.0) for i in range(8)]
    lost = [episode(f"t{i}", False, reward=0.0) for i in range(8)]
    assert "(WORSE); reward less the other's: -1.000" in _paired_line(compare(won, lost))
    assert "(better); reward less the other's: 1.000" in _paired_line(compare(lost, won))
    assert "(no more than noise)" in _paired_line(compare(won, won))
