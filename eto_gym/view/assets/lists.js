// The list of episodes with its filters, the samples of a task, scores, pairs, two policies.

const PAGE = 200;

const FILTERS = [
  ["group", "policy", (row) => row.group],
  ["type", "task type", (row) => row.type],
  ["result", "result", (row) => (row.outcome === "error" ? "error" : row.success ? "success"
    : "failure")],
  ["outcome", "outcome", (row) => row.outcome],
  ["error", "error kind", (row) => row.error],
];
const FLAGS = [
  ["bad", "no action found"],
  ["cut", "cut replies"],
  ["inadmissible", "inadmissible actions"],
  ["repeated", "repeated actions"],
];

function chosen(store, query) {
  const words = (query.get("text") || "").toLowerCase().split(/\s+/).filter(Boolean);
  return store.episodes.filter((row) =>
    FILTERS.every(([name, , of]) => !query.has(name) || of(row) === query.get(name)) &&
    FLAGS.every(([name]) => !query.has(name) || row[name] > 0) &&
    words.every((word) =>
      `${row.task} ${row.type} ${row.group} ${row.goal}`.toLowerCase().includes(word)));
}

function filterBar(store, query) {
  const change = (name, value) => { location.hash = withQuery({ [name]: value }); };
  return h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
    h("input", { type: "search", id: "text", placeholder: "task, type, policy, goal",
      "aria-label": "free text", value: query.get("text") || "",
      onchange: (event) => change("text", event.target.value) }),
    FILTERS.map(([name, label, of]) => {
      const values = [...new Set(store.episodes.map(of))].filter(Boolean).sort();
      if (values.length < 2 && !query.has(name)) return null;
      const select = h("select", { id: `filter-${name}`, "aria-label": label,
        onchange: (event) => change(name, event.target.value) },
        h("option", { value: "" }, `any ${label}`),
        values.map((value) => h("option", { value }, value)));
      select.value = query.get(name) || "";
      return select;
    }),
    FLAGS.map(([name, label]) => store.episodes.some((row) => row[name] > 0) &&
      h("label", {}, h("input", { type: "checkbox", id: `filter-${name}`,
        checked: query.has(name),
        onchange: (event) => change(name, event.target.checked ? "1" : "") }), ` ${label}`)));
}

function episodeRow(row) {
  return h("a", { class: "row", href: row.path },
    h("span", { class: "cell task" }, row.task, h("small", {}, row.goal)),
    h("span", { class: "cell" }, row.type),
    h("span", { class: "cell" }, row.group),
    h("span", { class: "cell" }, outcome(row),
      row.replaced && h("span", { class: "tag" }, "played again")),
    h("span", { class: "cell figure" }, short(row.reward)),
    h("span", { class: "cell figure" }, `${row.steps} steps`),
    h("span", { class: "cell flags" }, FLAGS.filter(([name]) => row[name] > 0)
      .map(([name, label]) => h("span", { class: "tag", title: label }, `${name} ${row[name]}`))));
}

// Rows are made when they are scrolled to.
function growing(rows, make) {
  const list = h("div", { class: "rows", id: "rows" });
  const end = h("div", { class: "more" });
  let shown = 0;
  const grow = () => {
    list.append(...rows.slice(shown, shown + PAGE).map(make));
    shown = Math.min(rows.length, shown + PAGE);
    end.textContent = shown < rows.length ? `${shown} of ${rows.length}` : "";
  };
  list.grow = grow;
  grow();
  // An observer tells of changes: an end that is in sight again before the next look at the page
  // would stay untold, so it is observed anew after each growth.
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting) || shown >= rows.length) return;
    grow();
    observer.unobserve(end);
    if (shown < rows.length) observer.observe(end);
  }, { rootMargin: "600px" });
  observer.observe(end);
  return [list, end];
}

function listView(store, query) {
  const rows = chosen(store, query);
  store.listed = rows;
  const rate = successRate(rows.filter((row) => scored(row) && !row.replaced));
  return [
    h("h1", {}, "Episodes"),
    filterBar(store, query),
    h("p", { id: "count" }, `${rows.length} of ${store.episodes.length} episodes, success ` +
      `${number(rate.mean)} [${number(rate.low)}, ${number(rate.high)}]`),
    growing(rows, episodeRow),
  ];
}

function taskView(store, part = "") {
  const task = [...store.byTask.keys()].find((name) => encoded(name) === encoded(part)) || part;
  const rows = store.byTask.get(task) || [];
  store.listed = rows;
  return [
    h("h1", {}, task),
    h("p", {}, `${rows.length} episodes, ${rows.filter((row) => row.success).length} successful`),
    growing(rows, episodeRow),
  ];
}

function scoresView(store) {
  const parts = [h("h1", {}, "Scores"),
    h("p", {}, "Success with 95% intervals. Episodes that ended in an error are not scored, but for "
      + "those that outgrew the model's context.")];
  for (const [name, rows] of store.groups) {
    const types = new Map();
    for (const row of rows) if (row.type) add(types, row.type, row);
    const lines = [...types].sort(([a], [b]) => (a < b ? -1 : 1));
    if (types.size !== 1) lines.push(["all", rows]);
    parts.push(h("h2", {}, h("a", { href: `#/episodes?${new URLSearchParams({ group: name })}` },
      name)), table(["tasks of type", "episodes", "success", "", "reward", "steps", "errors"],
      lines.map(([type, group]) => scoreCells(type, group)), { class: "scores" }));
  }
  return parts;
}

function scoreCells(type, rows) {
  const played = rows.filter(scored);
  const rate = successRate(played);
  const reward = meanOf(played.map((row) => row.reward), played.map((row) => row.task));
  const steps = played.reduce((sum, row) => sum + row.steps, 0) / played.length;
  return [type, played.length, intervalPlot(rate),
    `${number(rate.mean)} [${number(rate.low)}, ${number(rate.high)}]`,
    number(reward.mean), number(steps, 1), rows.filter((row) => row.error).length];
}

function pairsView(store) {
  return [
    h("h1", {}, "Preference pairs"),
    h("p", {}, `${store.pairs.length} pairs`),
    growing(store.pairs, (row) => h("a", { class: "row", href: `#/pair/${row.number + 1}` },
      h("span", { class: "cell task" }, row.task),
      h("span", { class: "cell" }, row.source),
      h("span", { class: "cell figure" }, `chosen ${row.chosen} turns`),
      h("span", { class: "cell figure" }, `rejected ${row.rejected} turns`),
      h("span", { class: "cell figure" }, `same for ${row.divergence}`))),
  ];
}

function compareView(store, query) {
  const names = [...store.groups.keys()];
  const a = query.get("a") || names[0], b = query.get("b") || names[names.length - 1];
  const choose = (name, value) => {
    const select = h("select", { id: `compare-${name}`,
      onchange: (event) => { location.hash = withQuery({ [name]: event.target.value }); } },
      names.map((option) => h("option", { value: option }, option)));
    select.value = value;
    return select;
  };
  const test = paired(store.groups.get(a) || [], store.groups.get(b) || []);
  const wanted = query.get("change") || "gained";
  const rows = test.episodes.filter(([x, y]) => kindOf(x, y) === wanted);
  store.listed = rows.map(([, y]) => y);
  return [
    h("h1", {}, "Two policies on the same tasks"),
    h("p", { class: "filters" }, choose("a", a), " against ", choose("b", b)),
    h("p", { id: "verdict" }, `${test.episodes.length} common episodes: gained ${test.gained}, ` +
      `lost ${test.lost}, p ${test.p.toPrecision(2)}; reward ${number(test.reward.mean)} ` +
      `[${number(test.reward.low)}, ${number(test.reward.high)}] higher`),
    h("p", { class: "choices" }, ["gained", "lost", "both", "neither"].map((kind) =>
      h("a", { class: kind === wanted ? "current" : "", id: `change-${kind}`,
        href: withQuery({ a, b, change: kind }) },
        `${kind} ${test.episodes.filter(([x, y]) => kindOf(x, y) === kind).length}`))),
    growing(rows, ([x, y]) => h("a", { class: "row",
      href: `#/duel/${x.number}/${y.number}` },
      h("span", { class: "cell task" }, x.task, h("small", {}, x.goal)),
      h("span", { class: "cell" }, x.type),
      h("span", { class: "cell" }, outcome(x)), h("span", { class: "cell" }, outcome(y)),
      h("span", { class: "cell figure" }, `${x.steps} and ${y.steps} steps`))),
  ];
}

function kindOf(before, after) {
  if (before.success) return after.success ? "both" : "lost";
  return after.success ? "gained" : "neither";
}
