// The intervals and the paired test of `eto-gym eval`; a test compares them with its own.

const Z = 1.959963984540054;

function wilson(successes, n) {
  if (!n) return { mean: NaN, low: NaN, high: NaN };
  const p = successes / n;
  const centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n);
  const half = Z * Math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n);
  return {
    mean: p,
    low: Math.min(p, Math.max(0, centre - half)),
    high: Math.max(p, Math.min(1, centre + half)),
  };
}

// Student's interval of a mean; values of one group (episodes of a task) are not independent.
function meanOf(values, groups) {
  const n = values.length;
  if (!n) return { mean: NaN, low: NaN, high: NaN };
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const residuals = new Map();
  values.forEach((value, i) =>
    residuals.set(groups[i], (residuals.get(groups[i]) || 0) + value - mean));
  const count = residuals.size;
  if (count === 1) return { mean, low: -Infinity, high: Infinity };
  let squares = 0;
  for (const residual of residuals.values()) squares += residual * residual;
  const error = Math.sqrt(squares * count / (count - 1)) / n;
  const half = studentQuantile(count - 1) * error;
  return { mean, low: mean - half, high: mean + half, error };
}

function successRate(rows) {
  const n = rows.length;
  const tasks = new Set(rows.map((row) => row.task));
  const wins = rows.filter((row) => row.success).length;
  if (n === tasks.size || n === 0) return wilson(wins, n);
  const p = wins / n;
  let effective = tasks.size;
  if (wins > 0 && wins < n && tasks.size > 1) {
    const { error } = meanOf(rows.map((row) => row.success), rows.map((row) => row.task));
    effective = error > 0 ? Math.min(n, p * (1 - p) / (error * error)) : n;
  }
  return wilson(p * effective, effective);
}

// The 0.975 quantile of Student's t, by bisection on its distribution function.
function studentQuantile(freedom) {
  let low = 0, high = 1e6;
  for (let i = 0; i < 200 && high - low > 1e-13 * high; i++) {
    const middle = (low + high) / 2;
    const tail = 0.5 * incompleteBeta(freedom / (freedom + middle * middle), freedom / 2, 0.5);
    if (tail > 0.025) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

// The regularised incomplete beta function, by its continued fraction (Lentz).
function incompleteBeta(x, a, b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) +
    a * Math.log(x) + b * Math.log1p(-x)) / a;
  let f = 1, c = 1, d = 0;
  for (let i = 0; i <= 500; i++) {
    const m = Math.floor(i / 2);
    let term = 1;
    if (i && i % 2 === 0) term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    else if (i) term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / nonZero(1 + term * d);
    c = nonZero(1 + term / c);
    f *= c * d;
    if (Math.abs(1 - c * d) < 1e-15) break;
  }
  return front * (f - 1);
}

const nonZero = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);

function logGamma(x) {
  const terms = [
    676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
  const t = x + 6.5;
  const sum = terms.reduce((total, term, i) => total + term / (x + i), 0.99999999999980993);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

// Two policies on the same episodes; the exact sign-flip test of the tasks' differences.
function paired(before, after) {
  const key = (row) => `${row.sample}\u0000${row.task}`;
  const first = new Map(before.filter(scored).map((row) => [key(row), row]));
  const both = after.filter(scored).filter((row) => first.has(key(row)))
    .map((row) => [first.get(key(row)), row]);
  const change = both.map(([a, b]) => b.success - a.success);
  const byTask = new Map();
  both.forEach(([a], i) => byTask.set(a.task, (byTask.get(a.task) || 0) + change[i]));
  return {
    episodes: both,
    gained: change.filter((c) => c === 1).length,
    lost: change.filter((c) => c === -1).length,
    p: signFlip([...byTask.values()]),
    reward: meanOf(both.map(([a, b]) => b.reward - a.reward), both.map(([a]) => a.task)),
  };
}

const scored = (row) => row.outcome !== "error" || row.error === "context";

function signFlip(totals) {
  const flips = totals.map(Math.abs).filter(Boolean);
  const reach = flips.reduce((sum, flip) => sum + flip, 0);
  const seen = Math.abs(totals.reduce((sum, total) => sum + total, 0));
  let chances = new Float64Array(2 * reach + 1);
  chances[reach] = 1;
  for (const flip of flips) {
    const next = new Float64Array(2 * reach + 1);
    for (let i = 0; i < chances.length; i++) {
      if (i >= flip) next[i] += chances[i - flip] / 2;
      if (i + flip < chances.length) next[i] += chances[i + flip] / 2;
    }
    chances = next;
  }
  let p = 0;
  for (let i = 0; i < chances.length; i++) if (Math.abs(i - reach) >= seen) p += chances[i];
  return Math.min(1, p);
}
