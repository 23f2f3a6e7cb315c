// Plots as inline SVG.

// One interval on a scale from 0 to 1, or whatever bounds are given.
function intervalPlot(estimate, low = 0, high = 1) {
  const width = 160;
  const x = (value) =>
    4 + (width - 8) * (Math.min(Math.max(value, low), high) - low) / (high - low || 1);
  if (!Number.isFinite(estimate.mean)) return h("span", {}, "\u2013");
  const label = `${number(estimate.mean)} [${number(estimate.low)}, ${number(estimate.high)}]`;
  return svg("svg", { class: "interval", viewBox: `0 0 ${width} 16`, role: "img",
    "aria-label": label },
    svg("line", { x1: 4, x2: width - 4, y1: 8, y2: 8, class: "axis" }),
    svg("line", { x1: x(estimate.low), x2: x(estimate.high), y1: 8, y2: 8, class: "whisker" }),
    svg("circle", { cx: x(estimate.mean), cy: 8, r: 4, class: "dot" }));
}

// Lines over steps: series are [{name, points: [[x, y]]}].
function linePlot(series, title) {
  const points = series.flatMap((line) => line.points);
  if (!points.length) return null;
  const [width, height, left, bottom] = [520, 200, 56, 24];
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const least = (list) => list.reduce((a, b) => Math.min(a, b), Infinity);
  const most = (list) => list.reduce((a, b) => Math.max(a, b), -Infinity);
  const [x0, x1, y0, y1] = [least(xs), most(xs), least(ys), most(ys)];
  const x = (v) => left + (width - left - 8) * (v - x0) / (x1 - x0 || 1);
  const y = (v) => height - bottom - (height - bottom - 10) * (v - y0) / (y1 - y0 || 1);
  const text = (v) => (Math.abs(v) >= 1e4 || (v && Math.abs(v) < 1e-3) ? v.toExponential(1)
    : String(Number(v.toPrecision(4))));
  const ticks = [0, 0.5, 1];
  return h("figure", { class: "plot" }, h("figcaption", {}, title),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
      ticks.map((t) => {
        const value = y0 + t * (y1 - y0);
        return [
          svg("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), class: "grid" }),
          svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text(value)),
        ];
      }),
      ticks.map((t) => svg("text", { x: x(x0 + t * (x1 - x0)), y: height - 6,
        "text-anchor": t === 0 ? "start" : t === 1 ? "end" : "middle" },
        text(x0 + t * (x1 - x0)))),
      series.map((line, i) => svg("polyline", { class: `line line-${i % 6}`,
        points: line.points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ") }))),
    series.length > 1 && h("p", { class: "legend" }, series.map((line, i) =>
      h("span", { class: `key key-${i % 6}` }, line.name))));
}

// Wall time of stages, one bar each.
function bars(rows) {
  const longest = rows.reduce((most, row) => Math.max(most, row.seconds || 0), 0) || 1;
  return h("div", { class: "bars" }, rows.map((row) => h("div", { class: "bar-row" },
    h("span", { class: "bar-name" }, row.name),
    svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "bar" },
      svg("rect", { width: 100 * (row.seconds || 0) / longest, height: 10 })),
    h("span", { class: "bar-value" }, duration(row.seconds)))));
}
