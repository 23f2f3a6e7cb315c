// Which view an address shows, the keys, and the reload of a page that is served.

const KEYS = [
  ["j k", "next and previous row, or episode"], ["Enter", "open the row"],
  ["u Esc", "up: from an episode to the list"], ["/", "free text"],
  ["o e s c p", "overview, episodes, scores, compare, pairs"],
  ["m", "shade what is not trained on"], ["d", "first divergence"], ["t", "light or dark"],
  ["?", "these keys"],
];

async function viewOf(store, { parts, query }) {
  const [name, ...rest] = parts;
  if (name === "episodes") return listView(store, query);
  if (name === "task") return taskView(store, rest[0]);
  if (name === "scores") return scoresView(store);
  if (name === "pairs") return pairsView(store);
  if (name === "compare") return compareView(store, query);
  if (name === "episode") {
    const row = store.byPath.get(location.hash);
    if (row) return episodeView(store, row);
  }
  if (name === "pair" && store.pairs[rest[0] - 1]) return pairView(store, store.pairs[rest[0] - 1]);
  if (name === "duel" && store.episodes[rest[0]] && store.episodes[rest[1]])
    return duelView(store, store.episodes[rest[0]], store.episodes[rest[1]]);
  if (name) return [h("h1", {}, "There is no such page"), h("p", {}, location.hash)];
  return overview(store);
}

function navigation(store, name) {
  const link = (to, label) => h("a", { href: `#/${to}`, id: `to-${to || "overview"}`,
    class: name === to ? "current" : "" }, label);
  return h("nav", {}, link("", "Overview"),
    store.episodes.length > 0 && [link("episodes", "Episodes"), link("scores", "Scores")],
    store.groups.size > 1 && link("compare", "Compare"),
    store.pairs.length > 0 && link("pairs", "Pairs"),
    h("button", { id: "theme", onclick: changeTheme, title: "light or dark" }, "\u25d0"),
    h("button", { id: "help", onclick: showKeys, title: "keys" }, "?"));
}

function changeTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

function showKeys() {
  const dialog = h("dialog", { id: "keys", onclick: () => dialog.close(),
    onclose: () => dialog.remove() },
    table(["key", "what it does"], KEYS));
  document.body.append(dialog);
  dialog.showModal();
}

let drawn = 0;

async function draw(store) {
  const turn = ++drawn;
  const here = address();
  if (here.parts[0]) listAddress[here.parts[0]] = location.hash;
  const view = await viewOf(store, here).catch((error) =>
    [h("h1", {}, "This could not be shown"), h("pre", {}, String(error))]);
  if (turn !== drawn) return;  // the address has changed meanwhile
  const app = document.getElementById("app");
  app.replaceChildren(navigation(store, here.parts[0] || ""),
    put(document.createElement("main"), {}, [view]));
  document.body.dataset.view = here.parts[0] || "overview";
  window.scrollTo(0, 0);
}

// --- keys ---------------------------------------------------------------------------------------

function move(store, by) {
  const { parts } = address();
  if (parts[0] === "pair") {
    const to = Number(parts[1]) + by;
    if (store.pairs[to - 1]) location.hash = `#/pair/${to}`;
  } else if (parts[0] === "episode") {
    const rows = store.listed && store.listed.length ? store.listed : store.episodes;
    const at = rows.findIndex((row) => row.path === location.hash);
    if (rows[at + by]) location.hash = rows[at + by].path;
  } else {
    const list = document.getElementById("rows");
    if (!list) return;
    const current = list.querySelector(".row:focus");
    let next = current ? (by > 0 ? current.nextElementSibling : current.previousElementSibling)
      : list.firstElementChild;
    if (current && !next && by > 0) {
      list.grow();
      next = current.nextElementSibling;
    }
    if (next) next.focus();
  }
}

function onKey(store, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest && event.target.closest("input[type=search], select");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing) return;
  const to = { o: "", e: "episodes", s: "scores", c: "compare", p: "pairs" };
  if (event.key in to) location.hash = `#/${to[event.key]}`;
  else if (event.key === "j") move(store, 1);
  else if (event.key === "k") move(store, -1);
  else if (event.key === "t") changeTheme();
  else if (event.key === "?") showKeys();
  else if (event.key === "u" || event.key === "Escape") up();
  else if (event.key === "m") press("shade");
  else if (event.key === "d") scrollToElement("divergence");
  else if (event.key === "/") {
    event.preventDefault();
    if (document.getElementById("text")) document.getElementById("text").focus();
    else location.hash = "#/episodes";
  }
}

function up() {
  const { parts } = address();
  const above = { episode: "episodes", task: "episodes", pair: "pairs", duel: "compare" };
  if (parts[0] in above) location.hash = listAddress[above[parts[0]]] || `#/${above[parts[0]]}`;
}

const listAddress = {};  // where the lists were left, with their filters

function press(id) {
  const element = document.getElementById(id);
  if (element) element.click();
}

function scrollToElement(id) {
  const element = document.getElementById(id);
  if (element) element.scrollIntoView({ block: "center" });
}

// --- start --------------------------------------------------------------------------------------

async function watch(path) {
  let seen = null;
  for (;;) {
    try {
      const version = await (await fetch(path, { cache: "no-store" })).text();
      if (seen !== null && version !== seen) location.reload();
      seen = version;
    } catch {
      seen = seen || "";  // the server is away; it may come back with more
    }
    await new Promise((resolve) => setTimeout(resolve, 1500));
  }
}

async function start() {
  const store = new Store(await unpack("index"));
  window.addEventListener("hashchange", () => draw(store));
  document.addEventListener("keydown", (event) => onKey(store, event));
  await draw(store);
  document.body.dataset.ready = "true";
  if (store.index.live) watch(store.index.live);
}

start();
