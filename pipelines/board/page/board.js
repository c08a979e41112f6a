"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const measures = new Map(data.measures.map((m) => [m.key, m]));
const entries = new Map(data.entries.map((e) => [e.name, e]));
const FILTERS = [["method", "method"], ["padding", "padding"], ["training", "trained on"], ["stem", "stem"], ["dataset", "data"]];
const MOST = 4;
const usual = () => ({ sort: "", q: "", filters: {}, cols: data.measures.filter((m) => m.shown).map((m) => m.key), x: "accuracy", y: data.measures.some((m) => m.key === "circular_consistency") ? "circular_consistency" : data.measures[0].key, open: [], theme: "" });
let state = usual();

// elements are made, never parsed: a name in an entry that somebody sent is text
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function read() {
  const words = new URLSearchParams(location.hash.slice(1));
  state = usual();
  for (const key of ["sort", "q", "theme"]) state[key] = words.get(key) || "";
  for (const axis of ["x", "y"]) if (measures.has(words.get(axis))) state[axis] = words.get(axis);
  if (words.has("cols")) state.cols = words.get("cols").split(",").filter((key) => measures.has(key));
  if (words.has("open")) state.open = words.get("open").split(",").filter((name) => entries.has(name)).slice(0, MOST);
  for (const [key] of FILTERS) if (words.get(key)) state.filters[key] = words.get(key);
}

function write() {
  const words = new URLSearchParams(), plain = usual();
  for (const key of ["sort", "q", "theme", "x", "y"]) if (state[key] !== plain[key]) words.set(key, state[key]);
  if (state.cols.join() !== plain.cols.join()) words.set("cols", state.cols.join());
  if (state.open.length) words.set("open", state.open.join());
  for (const [key, value] of Object.entries(state.filters)) if (value) words.set(key, value);
  const hash = words.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
}

const number = (entry, key) => entry.numbers[key];
const unit = (m) => ({ "%": " (%)", nats: " (nats)", x: " (× base)" })[m.unit] ?? "";
const law = (entry) => ({ none: ["–", "no promise"], kept: ["✓", "promise kept"], broken: ["✗", "promise broken"], unknown: ["?", "promise not tested"] })[entry.law];

const PLAIN = [["name", "entry"], ["method", "method"], ["padding", "padding"], ["training", "trained on"], ["stem", "stem"], ["law", "law to 1e-5"]];
let table, chart;
const charts = [];

function cell(entry, key) {
  const found = number(entry, key);
  const td = document.createDocumentFragment();
  if (!found) return td;
  td.append(found.text);
  if (found.half !== null) td.append(make("small", { text: " ± " + found.half_text }));
  return td;
}

function build() {
  const plain = PLAIN.map(([key, title]) => ({
    title, name: key, className: key === "name" ? "first" : "",
    render: (_, type, entry) => (key === "law" ? law(entry)[type === "display" ? 0 : 1] : type === "display" ? "" : entry[key]),
    createdCell: (td, _, entry) => {
      if (key === "name") td.replaceChildren(make("button", { type: "button", class: "name", text: entry.name, "aria-expanded": "false", onclick: () => toggle(entry.name, true) }));
      else if (key === "law") td.replaceChildren(make("span", { class: entry.law, role: "img", "aria-label": law(entry)[1], title: law(entry)[1], text: law(entry)[0] }));
      else td.textContent = entry[key];
    },
  }));
  const numeric = data.measures.map((m) => ({
    title: m.title + unit(m), name: m.key, className: "n", type: "num", visible: state.cols.includes(m.key),
    orderSequence: m.better === "lower" ? ["asc", "desc", ""] : ["desc", "asc", ""],
    render: (_, type, entry) => { const found = number(entry, m.key); return type === "sort" || type === "type" ? (found ? found.mean : m.better === "lower" ? Infinity : -Infinity) : ""; },
    createdCell: (td, _, entry) => td.replaceChildren(cell(entry, m.key)),
  }));
  table = new DataTable("#board", {
    data: data.entries, columns: [...plain.map((c) => ({ data: null, ...c })), ...numeric.map((c) => ({ data: null, ...c }))],
    paging: false, info: false, searching: true, autoWidth: false, order: [], layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
  });
  table.on("order", () => {
    const order = table.order().map((o) => (Array.isArray(o) ? o : [o.idx, o.dir])).filter((o) => o[1]);
    state.sort = order.length ? `${[...PLAIN.map((p) => p[0]), ...measures.keys()][order[0][0]]}:${order[0][1]}` : "";
    write();
  });
}

const shown = (entry) =>
  FILTERS.every(([key]) => !state.filters[key] || entry[key] === state.filters[key]) &&
  (!state.q || PLAIN.some(([key]) => String(entry[key]).toLowerCase().includes(state.q.toLowerCase())));
const visible = () => data.entries.filter(shown);

function controls() {
  const bar = $("filters");
  bar.append(make("label", {}, "find", make("input", { type: "search", id: "q", oninput: (event) => { state.q = event.target.value; refresh(); } })));
  for (const [key, title] of FILTERS) {
    const values = [...new Set(data.entries.map((entry) => entry[key]))];
    const select = make("select", { id: "f-" + key, onchange: (event) => { state.filters[key] = event.target.value; refresh(); } }, make("option", { value: "", text: "all" }));
    for (const value of values) select.append(make("option", { value, text: value || "not stated" }));
    bar.append(make("label", {}, title, select));
  }
  const groups = { answers: "answers", shifts: "whole shifts", pixels: "fractions of a pixel", other: "other changes", cost: "cost" };
  for (const [group, title] of Object.entries(groups)) {
    const own = data.measures.filter((m) => m.group === group);
    if (!own.length) continue;
    const field = make("fieldset", {}, make("legend", { text: title }));
    for (const m of own) {
      const box = make("input", { type: "checkbox", id: "c-" + m.key, onchange: (event) => { state.cols = data.measures.map((o) => o.key).filter((k) => (k === m.key ? event.target.checked : state.cols.includes(k))); refresh(); } });
      field.append(make("label", {}, box, " " + m.title));
    }
    $("columns").append(field);
  }
  for (const axis of ["x", "y"]) {
    for (const m of data.measures) $(axis).append(make("option", { value: m.key, text: m.title }));
    $(axis).addEventListener("change", (event) => { state[axis] = event.target.value; refresh(); });
  }
  $("csv").addEventListener("click", () => save("board.csv", csv()));
  $("bibtex").addEventListener("click", () => save("board.bib", bibtex()));
  $("reset").addEventListener("click", () => { state = { ...usual(), theme: state.theme }; table.order([]).draw(); refresh(); });
  $("theme").addEventListener("click", () => { state.theme = dark() ? "light" : "dark"; refresh(); });
  for (const m of data.measures) $("measures").append(make("dt", { text: m.title }), make("dd", { text: m.sentence + (m.source ? ` Source: ${m.source}.` : "") }));
  $("about").textContent = data.about;
  $("part").hidden = !data.part;
  $("part").append(make("strong", { text: data.part }));
}

const dark = () => (state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function quoted(text) {
  const value = String(text ?? "");
  const safe = /^[=+\-@]/.test(value) && Number.isNaN(Number(value)) ? "'" + value : value;
  return /[",\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}

function csv() {
  const head = ["entry", "method", "padding", "training", "stem", "law", "n", ...data.measures.flatMap((m) => [m.key, m.key + "_half_interval"])];
  const rows = visible().map((e) => [e.name, e.method, e.padding, e.training, e.stem, law(e)[1], e.seeds.length, ...data.measures.flatMap((m) => { const found = number(e, m.key); return found ? [found.mean, found.half] : ["", ""]; })]);
  return [head, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
}

function bibtex() {
  const clean = (text) => String(text).replace(/[{}\\%&#$~^_]/g, (c) => ({ "{": "", "}": "", "\\": "", "~": " ", "^": " " })[c] ?? "\\" + c);
  return visible().map((e) => `@misc{stillpoint-board-${e.name.toLowerCase().replace(/[^a-z0-9]+/g, "-")},\n  title = {${clean(e.method)} on the board of shift invariance (entry ${clean(e.name)})},\n  author = {{The Stillpoint authors}},\n  note = {${clean(e.dataset)}, ${e.seeds.length} seeds${e.seeds[0].commit ? ", commit " + e.seeds[0].commit.slice(0, 12) : ""}${e.source ? "; method: " + clean(e.source) : ""}}\n}\n`).join("\n");
}

function save(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// a share ends at nothing and at all
const interval = (m, found) => [found.mean - (found.half ?? 0), found.mean + (found.half ?? 0)].map((v) => (m.unit === "%" ? Math.min(100, Math.max(0, v)) : v));

function front(points, x, y) {
  const sign = (m, v) => (m.better === "lower" ? -v : v);
  const better = (a, b) => sign(x, b.x) >= sign(x, a.x) && sign(y, b.y) >= sign(y, a.y) && (a.x !== b.x || a.y !== b.y);
  return points.filter((p) => !points.some((q) => better(p, q))).sort((a, b) => a.x - b.x);
}

const labels = {
  id: "labels",
  afterDatasetsDraw(own) {
    const { ctx, chartArea: area } = own;
    ctx.save();
    ctx.fillStyle = colour("--ink");
    ctx.font = "12px system-ui, sans-serif";
    const taken = [];
    own.getDatasetMeta(0).data.forEach((point, index) => {
      const text = own.data.datasets[0].data[index].name, width = ctx.measureText(text).width;
      for (const [dx, dy] of [[8, -6], [8, 14], [-width - 8, -6], [-width - 8, 14]]) {
        const box = [point.x + dx, point.y + dy - 10, point.x + dx + width, point.y + dy + 2];
        if (box[0] < area.left || box[2] > area.right || box[1] < area.top || box[3] > area.bottom) continue;
        if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
        taken.push(box);
        ctx.fillText(text, point.x + dx, point.y + dy);
        break;
      }
    });
    ctx.restore();
  },
};

function plot() {
  const x = measures.get(state.x), y = measures.get(state.y);
  const points = visible().filter((e) => number(e, x.key) && number(e, y.key)).map((e) => {
    const a = number(e, x.key), b = number(e, y.key);
    const [xMin, xMax] = interval(x, a), [yMin, yMax] = interval(y, b);
    return { name: e.name, x: a.mean, y: b.mean, xMin, xMax, yMin, yMax };
  });
  const line = front(points, x, y);
  const title = (m) => m.title + unit(m);
  const scale = (m) => ({ title: { display: true, text: title(m), color: colour("--ink") }, ticks: { color: colour("--soft") }, grid: { color: colour("--line") } });
  chart?.destroy();
  chart = new Chart($("plot"), {
    type: "scatterWithErrorBars",
    data: { datasets: [
      { data: points, backgroundColor: colour("--accent"), pointRadius: 5, pointHoverRadius: 7, errorBarColor: colour("--soft"), errorBarWhiskerColor: colour("--soft"), errorBarLineWidth: 1, errorBarWhiskerSize: 5, errorBarWhiskerLineWidth: 1 },
      { type: "line", data: line, borderColor: colour("--accent"), borderWidth: 1, borderDash: [4, 4], pointRadius: 0, pointHitRadius: 0 },
    ] },
    options: {
      animation: false, maintainAspectRatio: false, scales: { x: scale(x), y: scale(y) },
      plugins: { legend: { display: false }, tooltip: { filter: (item) => item.datasetIndex === 0, callbacks: { label: (item) => { const e = entries.get(item.raw.name); const say = (m) => `${m.title} ${number(e, m.key).text}${number(e, m.key).half !== null ? " ± " + number(e, m.key).half_text : ""}`; return [e.name, say(x), say(y)]; } } } },
      onClick: (event, items) => { const item = items.find((i) => i.datasetIndex === 0); if (item) toggle(points[item.index].name, true); },
    },
    plugins: [labels],
  });
  $("plot").setAttribute("aria-label", `${y.title} over ${x.title} for ${points.length} entries`);
  $("front").textContent = line.length ? `Not beaten in both measures: ${[...new Set(line.map((p) => p.name))].join(", ")}.` : "";
}

function toggle(name, jump) {
  const there = state.open.includes(name);
  state.open = there ? state.open.filter((other) => other !== name) : [...state.open, name].slice(-MOST);
  refresh();
  if (jump && !there) { const card = $("card-" + name); card.scrollIntoView({ block: "start" }); card.querySelector("h3").focus(); }
  // who closes a row goes on from its name; the page stays where it is
  else if (there) [...document.querySelectorAll("#board button.name")].find((button) => button.textContent === name)?.focus({ preventScroll: true });
}

// the entry that is better than all others by more than the intervals of both, where one is
function best(m, chosen) {
  const found = chosen.map((e) => number(e, m.key));
  if (found.some((n) => !n || n.half === null)) return -1;
  const sign = m.better === "lower" ? -1 : 1;
  return found.findIndex((n, i) => found.every((other, j) => i === j || sign * (n.mean - other.mean) > Math.hypot(n.half, other.half)));
}

function beside(chosen) {
  const body = make("tbody"), line = (title, cells) => body.append(make("tr", {}, make("th", { scope: "row", text: title }), ...cells));
  for (const [key, title] of PLAIN.slice(1)) line(title, chosen.map((e) => make("td", { class: "n", text: key === "law" ? law(e).join(" ") : e[key] })));
  for (const m of data.measures.filter((m) => chosen.some((e) => number(e, m.key)))) {
    const first = best(m, chosen);
    line(m.title + unit(m), chosen.map((e, i) => { const td = make("td", { class: "n" }); const shown = cell(e, m.key); td.append(i === first ? make("strong", {}, shown) : shown); return td; }));
  }
  const head = make("tr", {}, make("th", { scope: "col", text: "measure" }), ...chosen.map((e) => make("th", { scope: "col", class: "n", text: e.name })));
  return make("table", {}, make("caption", { text: "Side by side. Bold: better than all others here by more than the intervals of both." }), make("thead", {}, head), body);
}

function heat(map) {
  const rows = map.length, columns = map[0].length, namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg"), every = map.flat(), least = Math.min(...every);
  svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Share of images that keep their class at each shift: from ${(100 * least).toFixed(1)} to ${(100 * Math.max(...every)).toFixed(1)} per cent`);
  svg.setAttribute("shape-rendering", "crispEdges");
  map.forEach((row, r) => row.forEach((value, c) => {
    const square = document.createElementNS(namespace, "rect");
    const far = least < 1 ? (1 - value) / (1 - least) : 0;
    for (const [key, given] of Object.entries({ x: c, y: r, width: 1, height: 1, fill: `hsl(${210 - 185 * far} 70% ${30 + 45 * far}%)` })) square.setAttribute(key, given);
    const title = document.createElementNS(namespace, "title");
    title.textContent = `${r} down, ${c} right: ${(100 * value).toFixed(1)} %`;
    square.append(title);
    svg.append(square);
  }));
  return svg;
}

function card(entry) {
  const section = make("article", { class: "card", id: "card-" + entry.name, "aria-label": entry.name });
  section.append(make("header", {}, make("h3", { tabindex: "-1", text: entry.name }), make("button", { type: "button", text: "Close", "aria-label": "Close " + entry.name, onclick: () => toggle(entry.name, false) })));
  const words = [entry.method, entry.padding ? `${entry.padding} padding` : "padding not stated", entry.training ? `trained on images ${entry.training}` : "training images not stated", `${entry.stem} stem`].join(", ");
  section.append(make("p", { text: words + (entry.source ? `. Source: ${entry.source}.` : ".") }), make("p", {}, make("strong", { class: entry.law, text: law(entry)[0] + " " }), entry.law_text));
  const rows = make("tbody");
  for (const m of data.measures) if (number(entry, m.key)) rows.append(make("tr", {}, make("th", { scope: "row", text: m.title + unit(m) }), make("td", { class: "n" }, cell(entry, m.key))));
  // the numbers of several rows are in one table instead
  if (state.open.length === 1) section.append(make("table", {}, make("caption", { text: `Numbers, n = ${entry.seeds.length}` }), rows));
  if (entry.map) section.append(make("h4", { text: "Every circular shift" }), make("p", { class: "soft", text: "Share of images that keep their class at each shift; the top left corner is no shift. Dark blue: all of them." }), heat(entry.map));
  if (entry.example) section.append(make("h4", { text: "A picture it fails on" }), make("img", { src: "data:image/png;base64," + entry.example.picture, alt: entry.example.text }), make("p", { text: entry.example.text }));
  if (entry.seeds.some((seed) => seed.history.length)) section.append(make("h4", { text: "History" }), make("div", { class: "history" }, make("canvas", { role: "img", "aria-label": "Training loss by epoch, a line for each seed" })));
  const body = make("tbody");
  const keys = ["accuracy", "circular_consistency", "worst_shift_accuracy"].filter((key) => measures.has(key));
  for (const seed of entry.seeds) body.append(make("tr", {}, make("th", { scope: "row", text: seed.seed }), ...keys.map((key) => make("td", { class: "n", text: seed.metrics[key] === undefined ? "" : (100 * seed.metrics[key]).toFixed(1) })), make("td", seed.commit ? { title: seed.commit, text: seed.commit.slice(0, 7) + (seed.clean === false ? "+" : "") } : { text: "not stated" })));
  section.append(make("h4", { text: "Seeds, one by one" }), make("table", { class: "seeds" }, make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "seed" }), ...keys.map((key) => make("th", { scope: "col", class: "n", text: measures.get(key).title })), make("th", { scope: "col", text: "commit" }))), body));
  if (entry.command) section.append(make("h4", { text: "Reproduce it" }), make("pre", { tabindex: "0", "aria-label": "commands", text: entry.command }));
  if (entry.settings) section.append(make("h4", { text: "Configuration" }), make("pre", { tabindex: "0", "aria-label": "configuration", text: entry.settings }));
  return section;
}

function cards() {
  charts.splice(0).forEach((own) => own.destroy());
  const chosen = state.open.map((name) => entries.get(name));
  $("beside").replaceChildren(...(chosen.length > 1 ? [beside(chosen)] : []));
  $("beside").hidden = chosen.length < 2;
  $("cards").replaceChildren(...state.open.map((name) => card(entries.get(name))));
  $("none").hidden = state.open.length > 0;
  for (const name of state.open) {
    const canvas = document.querySelector(`[id="card-${name}"] canvas`);
    if (!canvas) continue;
    const datasets = entries.get(name).seeds.map((seed) => ({ label: `seed ${seed.seed}`, data: seed.history.map((row) => ({ x: row[0], y: row[1] })), borderColor: colour("--accent"), borderWidth: 1.5, pointRadius: 1 }));
    const axis = (text) => ({ type: "linear", title: { display: true, text, color: colour("--soft") }, ticks: { color: colour("--soft") }, grid: { color: colour("--line") } });
    charts.push(new Chart(canvas, { type: "line", data: { datasets }, options: { animation: false, maintainAspectRatio: false, plugins: { legend: { display: false } }, scales: { x: axis("epoch"), y: axis("training loss") } } }));
  }
  for (const row of table.rows().nodes().toArray ? table.rows().nodes().toArray() : table.rows().nodes()) {
    const name = row.querySelector("button.name");
    const opened = state.open.includes(name.textContent);
    row.classList.toggle("opened", opened);
    name.setAttribute("aria-expanded", String(opened));
  }
}

function refresh() {
  document.documentElement.classList.toggle("dark", dark());
  $("theme").textContent = dark() ? "Light" : "Dark";
  $("q").value = state.q;
  for (const [key] of FILTERS) $("f-" + key).value = state.filters[key] || "";
  for (const m of data.measures) { $("c-" + m.key).checked = state.cols.includes(m.key); const column = table.column(m.key + ":name"); if (column.visible() !== state.cols.includes(m.key)) column.visible(state.cols.includes(m.key)); }
  $("x").value = state.x;
  $("y").value = state.y;
  table.draw(false);
  $("count").textContent = `${visible().length} of ${data.entries.length} entries.`;
  plot();
  cards();
  write();
}

read();
document.documentElement.classList.toggle("dark", dark());
build();
table.search.fixed("filters", (_, entry) => shown(entry));
controls();
function sort() {
  const [key, direction] = state.sort.split(":");
  const index = [...PLAIN.map((p) => p[0]), ...measures.keys()].indexOf(key);
  table.order(index >= 0 && ["asc", "desc"].includes(direction) ? [[index, direction]] : []);
}
sort();
refresh();
addEventListener("hashchange", () => { read(); sort(); refresh(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
