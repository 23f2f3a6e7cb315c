// The first view: what there is, and how its runs went.

function overview(store) {
  const { index } = store;
  const skipped = Object.entries(index.skipped);
  return [
    h("h1", {}, index.title),
    h("p", {}, `${store.episodes.length} episodes and ${store.pairs.length} pairs`),
    skipped.length > 0 && h("p", { class: "fault" }, "records that could not be read: " +
      skipped.map(([name, count]) => `${name} ${count}`).join(", ")),
    index.runs.map(runPart),
    store.groups.size > 0 && h("h2", {}, "What was played"),
    store.groups.size > 0 && table(["policy", "episodes", "success", "", "reward", "steps",
      "errors"], [...store.groups].map(([name, rows]) => {
      const [, ...cells] = scoreCells(name, rows);
      return [h("a", { href: `#/episodes?${new URLSearchParams({ group: name })}` }, name), ...cells];
    })),
  ];
}

function runPart(run) {
  const { report } = run;
  const metrics = (name) => run.curves.map((curve) => ({
    name: curve.stage,
    points: curve.metrics.filter((entry) => Number.isFinite(entry[name]))
      .map((entry) => [entry.step, entry[name]]),
  })).filter((line) => line.points.length > 1);
  const names = [...new Set(run.curves.flatMap((curve) =>
    curve.metrics.flatMap((entry) => Object.keys(entry))))]
    .filter((name) => !["step", "epoch"].includes(name)).sort();
  const place = h("div", { class: "plots" });
  const draw = (name) => place.replaceChildren(
    ...metrics(name).map((line) => linePlot([line], `${name}, ${line.name}`)));
  if (names.length) draw(names.includes("loss") ? "loss" : names[0]);
  const select = h("select", { "aria-label": "what is plotted",
    onchange: (event) => draw(event.target.value) },
    names.map((name) => h("option", { value: name, selected: name === "loss" }, name)));
  return h("section", { class: "run" },
    h("h2", {}, report.method ? `${report.method}: ${report.env}, preset ${report.preset}, ` +
      `seed ${report.seed}` : `${run.name}: no report yet`),
    report.policies && table(["policy", "episodes", "success", "", "steps", "bad replies",
      "gained", "lost", "p"], report.policies.map(policyCells), { class: "policies" }),
    report.policies && report.policies.filter((row) => row.card).map((row) =>
      h("details", { class: "card" }, h("summary", {}, `card of ${row.policy}`),
        h("pre", {}, JSON.stringify(row.card, null, 1)))),
    run.stages.length > 0 && [h("h3", {}, "Stages"), bars(run.stages)],
    names.length > 0 && [h("h3", {}, "Learning curves ", select), place]);
}

function policyCells(row) {
  const test = row.paired;
  const share = row.success || {};
  return [row.policy, row.episodes, intervalPlot(share),
    `${number(share.mean)} [${number(share.low)}, ${number(share.high)}]`,
    number(typeof row.steps === "object" && row.steps ? row.steps.mean : row.steps, 1),
    `${number(100 * row.format_errors, 1)}%`,
    ...(test ? [test.gained, test.lost, Number.isFinite(test.p) ? test.p.toPrecision(2) : "\u2013"]
      : ["", "", ""])];
}
