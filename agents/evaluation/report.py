"""The report of an evaluation: measures with intervals, Best-of-N, as JSON and as a table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eto_gym.agents.evaluation.measures import Measures, measure
from eto_gym.agents.evaluation.statistics import Estimate, PairedTest, mean, proportion
from eto_gym.trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class BestOf:
    """What choosing the best of several samples per task would give.

    Attributes:
        n: Samples per task.
        tasks: Tasks with so many scored samples; the best of fewer would not be the best of `n`.
        incomplete: The other tasks, left out of `success` and `reward`.
        success: Share of tasks that at least one sample solves.
        reward: Mean over tasks of the highest reward.
        pass_at: For several k, the chance that one of k samples solves a task: the unbiased
            estimate 1 - C(n - c, k) / C(n, k) for c successes among n samples, averaged over the
            tasks with at least k scored samples (Chen et al. 2021, arXiv:2107.03374).
    """

    n: int
    tasks: int
    incomplete: int
    success: Estimate
    reward: Estimate
    pass_at: dict[int, Estimate]


def best_of(trajectories: Iterable[Trajectory], n: int) -> BestOf:
    """Score the best of `n` samples of every task."""
    by_task: dict[str, list[Trajectory]] = defaultdict(list)
    every_task: set[str] = set()
    for t in trajectories:
        every_task.add(t.task_id)
        if t.scored and t.sample < n:
            by_task[t.task_id].append(t)
    whole = [samples for samples in by_task.values() if len(samples) == n]
    return BestOf(
        n=n,
        tasks=len(whole),
        incomplete=len(every_task) - len(whole),
        success=proportion(sum(any(t.success for t in samples) for samples in whole), len(whole)),
        reward=mean([max(t.reward for t in samples) for samples in whole]),
        pass_at={k: _pass_at(by_task.values(), k) for k in _powers_of_two(n)},
    )


def _powers_of_two(n: int) -> list[int]:
    """Return 1, 2, 4, ... and `n` itself."""
    return sorted({n, *(1 << i for i in range(n.bit_length()))})


def _pass_at(tasks: Iterable[Sequence[Trajectory]], k: int) -> Estimate:
    estimate = mean(
        [_chance(len(task), sum(t.success for t in task), k) for task in tasks if len(task) >= k]
    )
    return Estimate(estimate.mean, max(0.0, estimate.low), min(1.0, estimate.high))


def _chance(n: int, successes: int, k: int) -> float:
    """Return the chance that one at least of k samples out of n is a success.

    Binomial coefficients of many samples have as many digits; their quotient is a product.
    """
    missed = 1.0
    for i in range(n - successes + 1, n + 1):
        missed *= max(0, i - k) / i
    return 1.0 - missed


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that an evaluation tells.

    Attributes:
        overall: All episodes.
        by_type: The episodes of each task type.
        best: Best-of-N, if there were several samples per task.
        paired: Against another policy on the same episodes, if there is one.
    """

    overall: Measures
    by_type: dict[str, Measures]
    best: BestOf | None = None
    paired: PairedTest | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form; None stands for what is not known or not bounded."""
        known: dict[str, Any] = _finite(asdict(self))
        return known


def evaluate(
    trajectories: Sequence[Trajectory], *, n: int = 1, paired: PairedTest | None = None
) -> Report:
    """Report on episodes.

    Args:
        trajectories: One per episode.
        n: Samples per task; more than 1 adds Best-of-N.
        paired: A comparison to go with it.
    """
    types: dict[str, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        types[t.task_type].append(t)
    return Report(
        overall=measure(trajectories),
        by_type={name: measure(group) for name, group in sorted(types.items()) if name},
        best=best_of(trajectories, n) if n > 1 else None,
        paired=paired,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(report: Report) -> str:
    """Render a report as Markdown, for people."""
    header = ["tasks of type", "episodes", "success", "reward", "steps", "tokens", "bad replies"]
    rows = [_row("all", report.overall)]
    if len(report.by_type) > 1:
        rows = [*(_row(name, group) for name, group in report.by_type.items()), *rows]
    lines = [*table(header, rows), ""]
    lines.append("Brackets hold 95% intervals; tokens are those generated in an episode.")
    lost = dict(report.overall.errors)
    if full := lost.pop("context", 0):
        lines.append(f"Of these, {full} failed because they outgrew the model's context.")
    if lost:
        kinds = ", ".join(f"{kind} {count}" for kind, count in lost.items())
        lines.append(f"Not scored, because they could not be played out: {kinds}.")
    if report.best is not None:
        lines += ["", *_best_lines(report.best)]
    if report.paired is not None:
        lines += ["", _paired_line(report.paired)]
    return "\n".join(lines)


def _row(name: str, group: Measures) -> list[str]:
    return [
        name,
        str(group.episodes),
        words(group.success, 3),
        words(group.reward, 3),
        words(group.steps, 1),
        words(group.generated_tokens, 0),
        f"{group.format_errors:.1%}",
    ]


def words(estimate: Estimate, digits: int) -> str:
    """Write an estimate with its interval; "-" where there is none."""
    if math.isnan(estimate.mean):
        return "-"
    if math.isinf(estimate.high):
        return f"{estimate.mean:.{digits}f}"
    low, high = (f"{bound:.{digits}f}" for bound in (estimate.low, estimate.high))
    return f"{estimate.mean:.{digits}f} [{low}, {high}]"


def _best_lines(best: BestOf) -> list[str]:
    lines = [
        f"Best of {best.n} samples, over {best.tasks} tasks: reward {words(best.reward, 3)}, "
        f"success {words(best.success, 3)}."
    ]
    if best.incomplete:
        lines.append(f"Left out: {best.incomplete} tasks with fewer than {best.n} scored samples.")
    chances = ", ".join(f"{k}: {words(chance, 3)}" for k, chance in best.pass_at.items())
    return [*lines, f"pass@k, unbiased: {chances}."]


def _paired_line(test: PairedTest) -> str:
    if test.p >= 0.05:
        verdict = "no more than noise"
    else:
        verdict = "better" if test.gained > test.lost else "WORSE"
    return (
        f"Against the other on {test.episodes} common episodes: gained {test.gained}, lost "
        f"{test.lost}, p {test.p:.2g} ({verdict}); reward less the other's: "
        f"{words(test.reward, 3)}."
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table with columns of even width."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return [line(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)]
