"use strict";
// Elements, the page's data, and the address. Text from files becomes text nodes, never markup.

function put(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

const h = (tag, attributes, ...children) =>
  put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// --- data ---------------------------------------------------------------------------------------

async function unpack(id) {
  const element = document.getElementById(id);
  const letters = atob(element.textContent);
  const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const parsed = new Promise((resolve) => {
  if (document.readyState !== "loading") resolve();
  else document.addEventListener("DOMContentLoaded", () => resolve());
});

class Store {
  // Rows of the index, and the bodies that their chunks hold.
  constructor(index) {
    this.index = index;
    this.chunks = new Map();
    this.episodes = rowsOf(index.episodes);
    this.pairs = rowsOf(index.pairs);
    this.byTask = new Map();
    this.groups = new Map();
    this.byPath = new Map();
    for (const row of this.episodes) {
      row.group = row.policy ? `${row.source} \u00b7 ${row.policy}` : row.source;
      row.path = `#/episode/${encoded(row.source)}/${encoded(row.task)}/${row.sample}`;
      const other = this.byPath.get(row.path);
      if (other && other.policy !== row.policy) row.path += `?policy=${encoded(row.policy)}`;
      const earlier = this.byPath.get(row.path);
      if (earlier) {  // played again, after an error: the last one counts
        earlier.replaced = true;
        earlier.path += `${earlier.path.includes("?") ? "&" : "?"}earlier=${earlier.number}`;
        this.byPath.set(earlier.path, earlier);
      }
      this.byPath.set(row.path, row);
      add(this.byTask, row.task, row);
    }
    for (const row of this.episodes) if (!row.replaced) add(this.groups, row.group, row);
  }

  async body(kind, row) {
    await parsed;
    const starts = this.index.starts[kind];
    let low = 0, high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= row.number) low = middle;
      else high = middle - 1;
    }
    const chunk = await this.chunk(`${kind}-${low}`);
    const body = chunk.bodies[row.number - starts[low]];
    return { ...body, head: chunk.heads[body.head] };
  }

  chunk(name) {
    if (!this.chunks.has(name)) {
      if (this.chunks.size >= 8) this.chunks.delete(this.chunks.keys().next().value);
      this.chunks.set(name, unpack(name));
    }
    return this.chunks.get(name);
  }
}

function rowsOf(table) {
  const names = Object.keys(table.columns);
  const count = names.length ? table.columns[names[0]].length : 0;
  const rows = [];
  for (let number = 0; number < count; number++) {
    const row = { number };
    for (const name of names) {
      const value = table.columns[name][number];
      row[name] = table.values[name] ? table.values[name][value] : value;
    }
    rows.push(row);
  }
  return rows;
}

function add(map, key, value) {
  if (map.has(key)) map.get(key).push(value);
  else map.set(key, [value]);
}

// --- the address: #/view/part/part?name=value ---------------------------------------------------

function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return {
    parts: path.split("/").filter(Boolean).map(decoded),
    query: new URLSearchParams(query || ""),
  };
}

// Half of a character, which a model may write, has no place in an address.
const encoded = (text) =>
  encodeURIComponent(text.replace(/[\ud800-\udfff]/gu, "\ufffd"));

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function withQuery(changes) {
  const { query } = address();
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null) query.delete(name);
    else query.set(name, value);
  }
  const path = location.hash.split("?")[0] || "#/";
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

// --- small words --------------------------------------------------------------------------------

const number = (value, digits = 3) =>
  value === null || value === undefined || !Number.isFinite(value) ? "\u2013"
    : value.toFixed(digits);
const short = (value) => (Number.isInteger(value) ? String(value) : number(value));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "running";
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(2)} h`;
}

function outcome(row) {
  if (row.outcome === "error") return h("span", { class: "tag error" }, `error: ${row.error}`);
  const kind = row.success ? "success" : "failure";
  return h("span", { class: `tag ${kind}` }, row.success ? "success" : row.outcome);
}

function table(header, rows, attributes = {}) {
  return h("div", { class: "scroll" },
    h("table", attributes, h("thead", {}, h("tr", {}, header.map((cell) => h("th", {}, cell)))),
      h("tbody", {}, rows.map((row) =>
        h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}
