// Lists: the rows of the page, the stretches that earn a margin, and the numbers of tokens or stretches as a table.

const SORTS = {
  data: { label: "as in the data", value: () => null },
  margin: { label: "margin", value: (entry) => entry.margin },
  total: { label: "total", value: (entry) => entry.total },
  worst: { label: "worst stretch", value: (entry) => entry.worst[state.level] ?? entry.worst.token ?? null },
};

/** Return the numbers of the rows to list, sorted and filtered. */
function listed() {
  const wanted = state.filter.toLowerCase();
  const numbers = index.rows.map((_, number) => number);
  const kept = numbers.filter((number) => {
    const entry = index.rows[number];
    return !wanted || `${entry.name} ${entry.preview}`.toLowerCase().includes(wanted);
  });
  const turned = state.descending ? -1 : 1;
  const sort = SORTS[state.sort];
  return kept.sort((a, b) => {
    const [one, other] = [sort.value(index.rows[a]), sort.value(index.rows[b])];
    if (one === null || other === null) return one === other ? turned * (a - b) : one === null ? 1 : -1;
    return turned * (one - other) || a - b;
  });
}

function drawRows() {
  const numbers = listed();
  lazily(find("rows"), find("rows"), numbers, (number) => make("li", {}, rowButton(number)));
  const all = index.rows.length;
  find("list-count").textContent = numbers.length === all ? `${all} rows` : `${numbers.length} of ${all} rows`;
}

function rowButton(number) {
  const entry = index.rows[number];
  const sorted = SORTS[state.sort].value(entry);
  const shown = sorted ?? entry.margin ?? entry.total;
  const kind = state.sort === "worst" || state.sort === "total" ? SORTS[state.sort].label : entry.margin === null ? "total" : "margin";
  return make(
    "button",
    { type: "button", "data-row": number, "aria-current": String(number === state.row), title: `${entry.name}: ${kind} ${written(shown)}`, onclick: () => openRow(number) },
    rowName(entry.name.slice(entry.name.lastIndexOf("/") + 1)),
    make("span", { class: "number" }, written(shown)),
    make("span", { class: "preview" }, (entry.warnings ? "⚠ " : "") + entry.preview),
  );
}

/** Go to the row before or after, as they are listed. */
function nextRow(by) {
  const numbers = listed();
  const at = numbers.indexOf(state.row);
  const next = numbers[Math.min(numbers.length - 1, Math.max(0, at + by))];
  if (next !== undefined && next !== state.row) openRow(next);
}

function markRow() {
  for (const button of find("rows").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(Number(button.dataset.row) === state.row));
  }
}

/** List what earns the margin: stretches of both responses, by what they add to it. */
function drawShares() {
  const box = find("shares");
  const earned = state.pair ? Object.keys(state.pair.shares).length : 0;
  box.hidden = !earned;
  if (!earned) return;
  const level = state.pair.shares[state.level] ? state.level : "token";
  const { side, unit, gain } = state.pair.shares[level];
  const most = Math.max(...gain.map(Math.abs), 1e-12);
  const body = make("tbody");
  const scroll = make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Stretches by what they add to the margin" });
  const heads = ["adds", "", "response", level].map((name, i) => make("th", { scope: "col", class: i ? "" : "number" }, name));
  scroll.append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
  const title = make("h2", {}, `What earns the margin of ${written(state.pair.margin)}`);
  const parts = Object.entries(state.pair.shares).filter(([name]) => name.startsWith("segment "));
  const split = parts.map(([name, own]) => `${name} ${written(own.gain.reduce((all, one) => all + one, 0))}`).join(", ");
  const note =
    (split ? `${split}. ` : "") +
    `What chosen minus rejected implicit reward is made of, ${level} by ${level}, largest first. ` +
    `${state.pair.shared} tokens that both share cancel.`;
  box.replaceChildren(title, make("p", { class: "quiet" }, note), scroll);
  const numbers = gain.map((_, number) => number);
  lazily(scroll, body, numbers, (number) => shareRow(level, side[number], unit[number], gain[number], most));
}

function shareRow(level, side, unit, gain, most) {
  const view = state.views[side];
  const [first, last] = stretchOf(view.trace, level, unit);
  const bar = make("span", { class: `bar ${gain > 0 ? "positive" : "negative"}`, "aria-hidden": "true" });
  bar.style.setProperty("--share", (Math.abs(gain) / most).toFixed(3));
  const text = level === "token" ? pieceName(view.trace, first) : visible(pieces(view.trace, first, last));
  const go = () => goTo(view, Math.max(first, Math.min(state.pair.shared, last - 1)));
  return make(
    "tr",
    { onclick: go },
    cell(written(gain)),
    make("td", {}, bar),
    make("td", {}, view.trace.side),
    make("td", { class: "piece" }, make("button", { type: "button", onclick: (event) => (event.stopPropagation(), go()) }, "→"), ` ${text}`),
  );
}

const stretchOf = (trace, level, unit) =>
  level === "token" ? [unit, unit + 1] : [trace.spans[level].first[unit], trace.spans[level].last[unit]];

function goTo(view, token) {
  state.pinned = true;
  select(view, token, { scroll: true, focus: true });
  remember();
}

const NUMBER_COLUMNS = {
  implicit_reward: "implicit reward",
  centred_advantage: "centred advantage",
  prefix_value: "prefix value",
  logp: "log π",
  ref_logp: "log π_ref",
  rank: "rank",
  ref_rank: "ref. rank",
  entropy: "H(π)",
  ref_entropy: "H(π_ref)",
  kl: "KL",
  reward: "reward so far",
};
const SPAN_COLUMNS = { sum: "sum", mean: "mean", min: "least", final: "last token", end_value: "end value", reward: "reward at its end", tokens: "tokens" };

/** Return the columns of numbers that the responses shown have. */
function numberColumns(all) {
  const [read, rewarded] = [isRead, isRewarded].map((has) => state.views.some(({ trace }) => has(trace)));
  return Object.entries(all).filter(([name]) => name === "tokens" || (name === "reward" ? rewarded : read));
}

/** Return the columns of the table, as [name, heading], and its rows: one a token, or one a stretch of the level. */
function tableContents() {
  const byToken = state.level === "token";
  const numbers = numberColumns(byToken ? NUMBER_COLUMNS : SPAN_COLUMNS);
  const columns = [["index", "#"], ["text", byToken ? "token" : state.level], ...(state.pair ? [["side", "response"]] : []), ...numbers];
  const rows = state.views.flatMap((view) => {
    const source = byToken ? view.trace.tokens : view.trace.spans[state.level];
    const count = byToken ? view.trace.count : source ? source.first.length : 0;
    return Array.from({ length: count }, (_, place) => {
      const [first, last] = stretchOf(view.trace, state.level, place);
      const text = byToken ? pieceName(view.trace, first) : visible(pieces(view.trace, first, last));
      const entry = { view, first, last, index: place, text, side: view.trace.side || "" };
      for (const [name] of numbers) entry[name] = source[name][place];
      return entry;
    });
  });
  return { columns, rows };
}

function drawTable() {
  const box = find("table");
  if (box.hidden) return;
  const { columns, rows } = tableContents();
  const sort = columns.some(([name]) => name === state.table.column) ? state.table.column : "index";
  const turned = state.table.descending ? -1 : 1;
  rows.sort((a, b) => turned * compareCells(a[sort], b[sort]) || a.view.side - b.view.side || a.index - b.index);
  const heads = columns.map(([name, label]) => {
    const sorted = name === sort ? (state.table.descending ? "descending" : "ascending") : null;
    const sign = sorted ? (state.table.descending ? " ↓" : " ↑") : "";
    const button = make("button", { type: "button", "data-column": name, onclick: () => sortTable(name) }, label + sign);
    return make("th", { scope: "col", "aria-sort": sorted, class: isText(name) ? "" : "number" }, button);
  });
  const body = make("tbody");
  const scroll = make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${rows.length} rows` });
  scroll.append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
  const all = make("button", { type: "button" }, `Show all ${rows.length}`);
  const title = state.level === "token" ? "Tokens" : `Stretches: ${state.level}`;
  box.replaceChildren(make("h2", {}, title), scroll);
  const upTo = lazily(scroll, body, rows, (entry) => tableRow(entry, columns));
  if (rows.length > body.children.length) box.append(all);
  all.addEventListener("click", () => {
    upTo(rows.length);
    all.remove();
  });
  markTableRow();
}

const isText = (name) => name === "text" || name === "side";

function compareCells(one, other) {
  if (one === other) return 0;
  if (one === null) return 1;
  if (other === null) return -1;
  return one < other ? -1 : 1;
}

function sortTable(column) {
  state.table = { column, descending: state.table.column === column && !state.table.descending };
  drawTable();
  find("table").querySelector(`[data-column="${column}"]`).focus();
}

function tableRow(entry, columns) {
  const cells = columns.map(([name]) => {
    if (name === "text") return make("td", { class: "piece" }, entry.text);
    if (name === "side") return make("td", {}, entry.side);
    if (["index", "rank", "ref_rank", "tokens"].includes(name)) return cell(whole(entry[name]));
    return cell(written(entry[name], !["kl", "entropy", "ref_entropy", "logp", "ref_logp"].includes(name)));
  });
  const node = make("tr", { onclick: () => goTo(entry.view, entry.first) }, ...cells);
  node.entry = entry;
  return node;
}

/** Mark the row of the token under the cursor, where it is drawn. */
function markTableRow() {
  if (find("table").hidden || !state.cursor) return;
  const { view, token } = state.cursor;
  for (const node of find("table").querySelectorAll("tbody tr")) {
    const { entry } = node;
    node.classList.toggle("chosen-row", entry.view === view && entry.first <= token && token < entry.last);
  }
}
