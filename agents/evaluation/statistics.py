"""Estimates with 95% intervals, and the paired test between two policies."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from eto_gym.trajectories import Trajectory

_NORMAL = NormalDist().inv_cdf(0.975)
"""The 0.975 quantile of the normal distribution."""

_MANY = 500
"""Degrees of freedom from which on Student's quantile is an expansion around the normal one."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its two-sided 95% interval; all NaN where there is no episode."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write the mean and the interval with three decimals."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def proportion(successes: float, n: float) -> Estimate:
    """Estimate a success rate from `n` independent trials, by Wilson's score interval."""
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    z = _NORMAL
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    # At 0 and 1 the bound is exact, but for rounding.
    return Estimate(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


@functools.lru_cache(maxsize=4096)
def student_quantile(freedom: int) -> float:
    """Return the 0.975 quantile of Student's t with so many degrees of freedom.

    Beyond `_MANY` by Fisher's expansion, below by Newton's method on the distribution function,
    which is a finite sum for whole degrees of freedom; right to 12 digits.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 to 26.7.5.

    Raises:
        ValueError: There is no degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"expected at least 1 degree of freedom, got {freedom}")
    x, n = _NORMAL, float(freedom)
    if freedom > _MANY:
        first = (x**3 + x) / 4
        second = (5 * x**5 + 16 * x**3 + 3 * x) / 96
        third = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
        fourth = (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160
        return x + first / n + second / n**2 + third / n**3 + fourth / n**4
    # Within +-tan(angle) * sqrt(n) lies 0.95. In the angle the distribution function is concave, so
    # that Newton's steps from below (the normal quantile) go up to the root and never past it.
    angle = math.atan(x / math.sqrt(n))
    log_scale = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - math.log(math.pi) / 2
    for _ in range(60):
        density = 2 * math.exp(log_scale + (n - 1) * math.log(math.cos(angle)))
        change = (0.95 - _within(angle, freedom)) / density
        angle += change
        if abs(change) < 1e-15:
            break
    return math.tan(angle) * math.sqrt(n)


def _within(angle: float, freedom: int) -> float:
    """Return the chance that Student's t lies within +-tan(angle) * sqrt(freedom)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(2, freedom, 2):
            total += term
            term *= cosine**2 * k / (k + 1)
        return (2 / math.pi) * (angle + sine * total)
    term = total = 1.0
    for k in range(1, freedom - 2, 2):
        term *= cosine**2 * k / (k + 1)
        total += term
    return sine * total


def mean(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> Estimate:
    """Estimate a mean; the interval is Student's, and is infinite for a single group.

    Args:
        values: One per episode.
        groups: What each value belongs to; values of one group need not be independent (several
            episodes of one task), so the spread is that between groups. None: all are independent.
    """
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    data = np.asarray(values, dtype=float)
    centre = float(data.mean())
    residuals: dict[Hashable, float] = defaultdict(float)
    for group, residual in zip(groups or range(n), data - centre, strict=True):
        residuals[group] += residual
    count = len(residuals)
    if count == 1:
        return Estimate(centre, float("-inf"), float("inf"))
    squares = sum(residual**2 for residual in residuals.values())
    error = np.sqrt(squares * count / (count - 1)) / n
    half = float(student_quantile(count - 1) * error)
    return Estimate(centre, centre - half, centre + half)


def success_rate(successes: Sequence[bool], groups: Sequence[Hashable]) -> Estimate:
    """Estimate a success rate whose trials may come in groups, such as the episodes of a task.

    The interval is Wilson's, for as many independent trials as tell as much as these.
    """
    n, count = len(successes), len(set(groups))
    wins = sum(successes)
    if n == count or n == 0:
        return proportion(wins, n)
    p = wins / n
    effective = float(count)
    if 0 < wins < n and count > 1:
        half = mean(successes, groups).high - p
        error = half / student_quantile(count - 1)
        effective = min(n, p * (1 - p) / error**2) if error > 0 else float(n)
    return proportion(p * effective, effective)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two policies on the same episodes.

    Attributes:
        episodes: Episodes that are scored of both policies.
        gained: Episodes that the second policy solved and the first did not.
        lost: Episodes that the first policy solved and the second did not.
        p: Two-sided exact p-value of the sign-flip test on the tasks' differences in successes.
            With one episode per task that is McNemar's exact test (a binomial test of gained
            against lost); several episodes of a task, which are not independent, flip together.
        reward: By how much the second policy's mean reward is higher.
    """

    episodes: int
    gained: int
    lost: int
    p: float
    reward: Estimate


def compare(before: Iterable[Trajectory], after: Iterable[Trajectory]) -> PairedTest:
    """Test whether `after` succeeds more or less often than `before` on the same episodes."""
    first, second = (
        {t.key: {"success": t.success, "reward": t.reward} for t in side if t.scored}
        for side in (before, after)
    )
    return compare_results(first, second)


def compare_results(
    first: Mapping[tuple[str, int], Mapping[str, Any]],
    second: Mapping[tuple[str, int], Mapping[str, Any]],
) -> PairedTest:
    """Do as `compare` does, of "success" and "reward" of scored episodes by task and sample."""
    shared = sorted(set(first) & set(second))
    change = [int(second[key]["success"]) - int(first[key]["success"]) for key in shared]
    tasks = [task for task, _ in shared]
    return PairedTest(
        episodes=len(shared),
        gained=change.count(1),
        lost=change.count(-1),
        p=_p_value(change, tasks),
        reward=mean([second[key]["reward"] - first[key]["reward"] for key in shared], tasks),
    )


def _p_value(change: list[int], tasks: list[str]) -> float:
    """Return the exact chance of so large a sum, up or down, if every task's sign were a toss."""
    by_task: dict[str, int] = defaultdict(int)
    for task, difference in zip(tasks, change, strict=True):
        by_task[task] += difference
    reach = sum(abs(total) for total in by_task.values())
    chances = np.zeros(2 * reach + 1)  # of each sum from -reach to reach
    chances[reach] = 1.0
    for total in by_task.values():  # never wraps: no sum goes beyond the reach
        chances = (np.roll(chances, total) + np.roll(chances, -total)) / 2
    sums = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, chances[sums >= abs(sum(change))].sum()))
