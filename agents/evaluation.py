"""Summaries of episodes with 95% intervals, and the paired test between two policies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from eto_gym.trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its two-sided 95% interval; all NaN where there is no episode."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write the mean and the interval with three decimals."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def proportion(successes: int, n: int) -> Estimate:
    """Estimate a success rate; the interval is Wilson's score interval."""
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high))


def mean(values: Sequence[float]) -> Estimate:
    """Estimate a mean; the interval is Student's, and is infinite for a single value."""
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    centre = float(np.mean(values))
    if n == 1:
        return Estimate(centre, float("-inf"), float("inf"))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Estimate(centre, centre - half, centre + half)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a set of episodes amounts to.

    Attributes:
        episodes: Episodes that were scored; those that ended in an error are not.
        errors: Number of episodes by error kind.
        success: Success rate.
        reward: Mean of the episodes' summed rewards.
        steps: Mean number of steps.
        format_errors: Share of replies that held no action.
        generated_tokens: Mean number of tokens that the policy generated per episode; NaN for a
            policy that generates none.
        by_type: Success rate for each task type.
    """

    episodes: int
    errors: dict[str, int]
    success: Estimate
    reward: Estimate
    steps: float
    format_errors: float
    generated_tokens: float
    by_type: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        return asdict(self)


def summarise(trajectories: Iterable[Trajectory]) -> Summary:
    """Summarise episodes; those that failed to run are counted by kind and otherwise left out."""
    everything = list(trajectories)
    scored = [t for t in everything if not t.failed_to_run]
    by_type: dict[str, list[bool]] = defaultdict(list)
    for t in scored:
        by_type[t.task_type].append(t.success)
    steps = [step for t in scored for step in t.steps]
    tokens = [t.usage["decoded_tokens"] for t in scored if "decoded_tokens" in t.usage]
    return Summary(
        episodes=len(scored),
        errors=dict(Counter(str(t.error) for t in everything if t.failed_to_run)),
        success=proportion(sum(t.success for t in scored), len(scored)),
        reward=mean([t.reward for t in scored]),
        steps=len(steps) / len(scored) if scored else float("nan"),
        format_errors=sum(s.action is None for s in steps) / len(steps) if steps else 0.0,
        generated_tokens=float(np.mean(tokens)) if tokens else float("nan"),
        by_type={name: proportion(sum(wins), len(wins)) for name, wins in sorted(by_type.items())},
    )


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two policies on the same episodes.

    Attributes:
        episodes: Episodes that both policies played without an error.
        gained: Episodes that the second policy solved and the first did not.
        lost: Episodes that the first policy solved and the second did not.
        p: Two-sided exact p-value of McNemar's test (a binomial test of gained against lost).
    """

    episodes: int
    gained: int
    lost: int
    p: float


def compare(before: Iterable[Trajectory], after: Iterable[Trajectory]) -> PairedTest:
    """Test whether `after` succeeds more or less often than `before` on the same episodes."""
    first = {t.key: t.success for t in before if not t.failed_to_run}
    second = {t.key: t.success for t in after if not t.failed_to_run}
    shared = sorted(set(first) & set(second))
    gained = sum(second[key] and not first[key] for key in shared)
    lost = sum(first[key] and not second[key] for key in shared)
    changed = gained + lost
    p = float(stats.binomtest(gained, changed).pvalue) if changed else 1.0
    return PairedTest(len(shared), gained, lost, p)
