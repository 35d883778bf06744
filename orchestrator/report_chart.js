"use strict";
// The report's chart, filters, budget slider and sorting. Text from records reaches the page through textContent only.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";
const H = 500, L = 64, R = 22, T = 26, B = 86;
let W = 1190;
const STRIP = { failed: H - B + 14, refused: H - B + 28 };
const WORDS = { done: "done", stopped: "stopped early", failed: "failed", refused: "refused" };
const hidden = new Set();
let cost = D.costs[0].name;

function node(name, attributes, parent, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function count(number) {
  for (const [limit, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (number >= limit) return `${+(number / limit).toPrecision(4)} ${unit}`;
  return `${+number.toPrecision(4)}`;
}
const size = (name, number) => (name.endsWith("bytes") ? `${count(number)}B` : name.endsWith("_ms") ? `${number.toFixed(1)} ms` : count(number));
const color = (method) => (method ? `var(--m${D.methods.indexOf(method) % 7})` : "var(--ink)");
const points = () => D.points.filter((p) => !hidden.has(p.status) && !hidden.has(p.method) && p.costs[cost] > 0);
const known = (number) => typeof number === "number";
const band = (score, se) => `${score.toFixed(4)}${known(se) ? ` ± ${(2 * se).toFixed(4)}` : ""}`;

function scales(all) {
  const marks = D.marks.map((m) => m.costs[cost]);
  const xs = [...all.map((p) => p.costs[cost]), ...marks, D.budget[cost], D.teacher && D.teacher.costs[cost]].filter((x) => x > 0);
  const scored = [...all, ...(D.teacher ? [D.teacher] : [])].filter((p) => known(p.score));
  const ys = scored.flatMap((p) => [p.score - 2 * (p.se || 0), p.score + 2 * (p.se || 0)]);
  const [x0, x1] = [Math.log(Math.min(...xs) / 1.12), Math.log(Math.max(...xs) * 1.12)];
  const pad = 0.04 * (Math.max(...ys) - Math.min(...ys)) || 0.01;
  const [y0, y1] = ys.length ? [Math.min(...ys) - pad, Math.max(...ys) + pad] : [0, 1];
  return {
    x: (v) => L + ((Math.log(v) - x0) / (x1 - x0)) * (W - L - R),
    y: (v) => H - B - ((v - y0) / (y1 - y0)) * (H - T - B),
    at: (share) => Math.exp(x0 + share * (x1 - x0)),
    x0: Math.exp(x0), x1: Math.exp(x1), y0, y1,
  };
}

function axes(svg, s) {
  const span = s.x1 / s.x0;
  const steps = span > 300 ? [1] : span > 20 ? [1, 2, 5] : span > 4 ? [1, 1.5, 2, 3, 4, 5, 7] : [1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9];
  for (let power = Math.floor(Math.log10(s.x0)); power <= Math.log10(s.x1); power++)
    for (const step of steps) {
      const v = step * 10 ** power;
      if (v < s.x0 || v > s.x1) continue;
      node("line", { x1: s.x(v), x2: s.x(v), y1: T, y2: H - B, stroke: "var(--grid)" }, svg);
      node("text", { x: s.x(v), y: H - B + 48, "text-anchor": "middle", fill: "var(--soft)" }, svg, size(cost, v));
    }
  const rough = (s.y1 - s.y0) / 7;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const tick = unit * [1, 2, 5, 10].find((m) => m * unit >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(tick) + 1e-9));
  for (let v = Math.ceil(s.y0 / tick) * tick; v <= s.y1; v += tick) {
    node("line", { x1: L, x2: W - R, y1: s.y(v), y2: s.y(v), stroke: "var(--grid)" }, svg);
    node("text", { x: L - 8, y: s.y(v) + 4, "text-anchor": "end", fill: "var(--soft)" }, svg, v.toFixed(digits));
  }
  node("rect", { x: L, y: T, width: W - L - R, height: H - T - B, fill: "none", stroke: "var(--line)" }, svg);
  const label = D.costs.find((c) => c.name === cost).label;
  node("text", { x: (L + W - R) / 2, y: H - 14, "text-anchor": "middle", fill: "var(--ink)" }, svg, `${label} (log scale)`);
  const side = node("text", { transform: `translate(16 ${(T + H - B) / 2}) rotate(-90)`, "text-anchor": "middle", fill: "var(--ink)" }, svg);
  side.textContent = `${D.metric}, search half of dev`;
}

function budgetShade(svg, s) {
  const limit = D.budget[cost];
  if (!limit || limit >= s.x1) return;
  node("rect", { x: s.x(limit), y: T, width: W - R - s.x(limit), height: H - T - B, fill: "var(--shade)" }, svg);
  node("line", { x1: s.x(limit), x2: s.x(limit), y1: T, y2: H - B, stroke: "var(--warn)", "stroke-width": 1.5 }, svg);
  node("text", { x: s.x(limit) + 7, y: H - B - 9, fill: "var(--warn)" }, svg, `over the budget of ${size(cost, limit)}`);
}

function references(svg, s) {
  let last = -99;
  for (const mark of [...D.marks].sort((a, b) => a.costs[cost] - b.costs[cost])) {
    const x = s.x(mark.costs[cost]);
    node("line", { x1: x, x2: x, y1: T, y2: H - B, stroke: "var(--mark)", "stroke-dasharray": "1 4", "stroke-width": 1.5 }, svg);
    const at = Math.max(x - 5, last + 15);
    last = at;
    const text = node("text", { transform: `translate(${at} ${T + 8}) rotate(-90)`, "text-anchor": "end", fill: "var(--soft)", class: "halo" }, svg, mark.name);
    hover(text, [mark.name, `${size(cost, mark.costs[cost])}, ${mark.shape}`, mark.source, mark.claim].filter(Boolean).join("\n"));
  }
  if (!D.teacher || !known(D.teacher.score)) return;
  const y = s.y(D.teacher.score), spread = 2 * (D.teacher.se || 0);
  const top = s.y(D.teacher.score + spread);
  node("rect", { x: L, y: top, width: W - L - R, height: s.y(D.teacher.score - spread) - top, fill: "var(--mark)", opacity: 0.1 }, svg);
  node("line", { x1: L, x2: W - R, y1: y, y2: y, stroke: "var(--mark)", "stroke-dasharray": "6 4" }, svg);
  const x = s.x(D.teacher.costs[cost]);
  const star = node("path", { d: `M${x} ${y - 8}L${x + 8} ${y}L${x} ${y + 8}L${x - 8} ${y}Z`, fill: "var(--ink)" }, svg);
  hover(star, story(D.teacher));
  node("text", { x: x - 12, y: y - 8, "text-anchor": "end", fill: "var(--ink)", class: "halo" }, svg, "teacher");
}

function story(p) {
  const lines = [`${p.trial} (${p.method}, ${WORDS[p.status]}${p.front ? ", on the front" : ""})`, p.shape];
  if (known(p.score)) lines.push(`${D.metric} ${band(p.score, p.se)} on the search half`);
  if (known(p.held)) lines.push(`${D.metric} ${band(p.held, p.held_se)} on the other half`);
  for (const item of D.costs) if (p.costs[item.name] > 0) lines.push(`${item.label}: ${size(item.name, p.costs[item.name])}`);
  if (p.chosen) lines.push(p.chosen);
  if (p.reason) lines.push(p.reason.slice(0, 200));
  return lines.join("\n");
}

function hover(mark, text, trial) {
  mark.style.cursor = "pointer";
  mark.addEventListener("pointerenter", () => {
    const box = mark.getBoundingClientRect(), home = $("chart").getBoundingClientRect();
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.textContent = text;
    $("chart").append(tip);
    const left = box.right - home.left + 12;
    tip.style.left = `${left + tip.offsetWidth > home.width ? Math.max(4, box.left - home.left - tip.offsetWidth - 12) : left}px`;
    tip.style.top = `${Math.max(4, Math.min(box.top - home.top - 20, home.height - tip.offsetHeight - 4))}px`;
  });
  mark.addEventListener("pointerleave", () => $("chart").querySelectorAll(".tip").forEach((tip) => tip.remove()));
  if (trial) mark.addEventListener("click", () => point_at(trial));
}

function point_at(trial) {
  document.querySelectorAll("tr.at").forEach((row) => row.classList.remove("at"));
  const row = [...rows].find((item) => item.dataset.trial === trial);
  if (!row) return;
  row.classList.add("at");
  row.scrollIntoView({ block: "center", behavior: "smooth" });
}

function glyph(p, x, y, parent) {
  const fill = color(p.method);
  if (p.status === "failed") return node("path", { d: `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x - 4} ${y + 4}L${x + 4} ${y - 4}`, stroke: "var(--warn)", "stroke-width": 2, fill: "none" }, parent);
  if (p.status === "refused") return node("path", { d: `M${x} ${y - 5}V${y + 5}`, stroke: "var(--soft)", "stroke-width": 2 }, parent);
  if (p.status === "stopped") return node("circle", { cx: x, cy: y, r: 4, fill: "var(--page)", stroke: fill, "stroke-width": 1.5 }, parent);
  return node("circle", { cx: x, cy: y, r: p.front ? 6 : 4, fill, stroke: p.front ? "var(--ink)" : "none", "stroke-width": 1.5 }, parent);
}

function trials(svg, s) {
  const all = points();
  const front = all.filter((p) => p.front).sort((a, b) => a.costs[cost] - b.costs[cost]);
  const path = front.map((p, i) => (i ? `H${s.x(p.costs[cost])}V${s.y(p.score)}` : `M${s.x(p.costs[cost])} ${s.y(p.score)}`)).join("");
  const flat = D.aims.length === 1 && D.aims[0] === cost; // else the front is no staircase in this picture
  if (flat && front.length > 1) node("path", { d: path, fill: "none", stroke: "var(--ink)", opacity: 0.35, "stroke-width": 1.5 }, svg);
  const whiskers = all.length <= 120;
  for (const p of all) {
    const x = s.x(p.costs[cost]);
    if (p.status === "done" && known(p.score) && known(p.se) && (p.front || whiskers))
      node("line", { x1: x, x2: x, y1: s.y(p.score - 2 * p.se), y2: s.y(p.score + 2 * p.se), stroke: color(p.method), opacity: p.front ? 0.75 : 0.22, "stroke-width": p.front ? 1.5 : 1 }, svg);
  }
  for (const p of [...all].sort((a, b) => a.front - b.front)) {
    const x = s.x(p.costs[cost]), low = STRIP[p.status];
    if (low === undefined && !known(p.score)) continue;
    if ($("held").checked && p.front && known(p.held)) {
      node("line", { x1: x, x2: x, y1: s.y(p.score), y2: s.y(p.held), stroke: "var(--ink)", opacity: 0.6 }, svg);
      const y = s.y(Math.max(s.y0, Math.min(s.y1, p.held)));
      node("path", { d: `M${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}L${x - 5} ${y}Z`, fill: "var(--page)", stroke: "var(--ink)" }, svg);
    }
    hover(glyph(p, x, low === undefined ? s.y(p.score) : low, svg), story(p), p.trial);
  }
  for (const [status, y] of Object.entries(STRIP))
    if (all.some((p) => p.status === status)) node("text", { x: L - 8, y: y + 4, "text-anchor": "end", fill: "var(--soft)" }, svg, status);
}

function pick(svg, s) {
  const share = $("budget").value / 1000;
  const limit = share >= 1 ? Infinity : s.at(share);
  const fitting = points().filter((p) => p.status === "done" && p.fits && known(p.score) && p.costs[cost] <= limit);
  const best = fitting.reduce((a, b) => (!a || b.score > a.score || (b.score === a.score && b.costs[cost] < a.costs[cost]) ? b : a), null);
  const said = limit === Infinity ? "any size" : `up to ${size(cost, limit)}`;
  $("picked").textContent = best ? `${said}: ${best.trial}, ${best.shape}, ${band(best.score, best.se)}` : `${said}: no finished trial is that small`;
  if (limit !== Infinity) node("line", { x1: s.x(limit), x2: s.x(limit), y1: T, y2: H - B, stroke: "var(--accent)", "stroke-width": 1.5 }, svg);
  if (best) node("circle", { cx: s.x(best.costs[cost]), cy: s.y(best.score), r: 11, fill: "none", stroke: "var(--accent)", "stroke-width": 2.5, "pointer-events": "none" }, svg);
}

function draw() {
  W = Math.max(520, $("chart").clientWidth);
  const svg = node("svg", { width: W, height: H, role: "img", "aria-label": `${D.metric} of every trial against its size` });
  const s = scales(D.points.filter((p) => p.costs[cost] > 0));
  axes(svg, s);
  budgetShade(svg, s);
  references(svg, s);
  trials(svg, s);
  pick(svg, s);
  $("chart").replaceChildren(svg);
}

const rows = [...document.querySelectorAll("#trials tbody tr")];
function filterRows() {
  const wanted = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = hidden.has(row.dataset.status) || hidden.has(row.dataset.method) || !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  $("shown").textContent = `${shown} of ${rows.length}`;
}

function chip(name, words, sample) {
  const button = document.createElement("button");
  button.className = "chip";
  button.setAttribute("aria-pressed", "true");
  const svg = node("svg", { viewBox: "0 0 12 12" }, button);
  glyph(sample, 6, 6, svg);
  button.append(words);
  button.addEventListener("click", () => {
    hidden.has(name) ? hidden.delete(name) : hidden.add(name);
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    draw();
    filterRows();
  });
  $("filters").append(button);
}

for (const status of Object.keys(WORDS)) {
  const number = D.points.filter((p) => p.status === status).length;
  if (number) chip(status, `${WORDS[status]} ${number}`, { status, method: D.methods.length > 1 ? "" : D.methods[0] });
}
if (D.methods.length > 1) for (const method of D.methods) chip(method, method, { status: "done", method });
for (const item of D.costs) $("cost").append(new Option(item.label, item.name));
$("cost").addEventListener("change", (event) => { cost = event.target.value; draw(); });
$("held").addEventListener("change", draw);
$("budget").addEventListener("input", draw);
$("find").addEventListener("input", filterRows);
document.querySelectorAll("#trials thead th").forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending" || (head.dataset.first === "down" && !head.hasAttribute("aria-sort"));
    document.querySelectorAll("#trials thead th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const order = (a, b) => (a === "" ? 1 : b === "" ? -1 : (down ? -1 : 1) * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b));
    rows.sort((a, b) => order(key(a), key(b)));
    document.querySelector("#trials tbody").append(...rows);
  });
});
filterRows();
draw();
new ResizeObserver(() => Math.max(520, $("chart").clientWidth) !== W && draw()).observe($("chart"));
