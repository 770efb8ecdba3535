// The tree of a search as an outline with numbers: only what is open is drawn, and of many siblings the first.
// A line is a chain of tokens behind which nothing else was looked at until its end; see search_view.py.

const SIBLINGS = 50; // lines below one line that are drawn at once

/** What is drawn of the tree: lines by their numbers, the top by −1. */
const outline = {
  lines: [], // those below each line, as they are sorted; place 0 is the top
  opened: new Set(), // those whose lines below are drawn
  limits: new Map(), // how many of them, where more than SIBLINGS
  best: new Set(), // those that lead to the best candidate
  candidates: new Map(), // numbers of the candidates that lead to a line
  ranks: new Map(), // the first candidate that goes through a line
  most: 1, // visits of the line that has most
};

const COLUMNS = {
  sum: { label: "log π", title: "log-prob of the tokens of this line", write: plain },
  total: { label: "Σ log π", title: "log-prob of the response up to the end of this line", write: plain },
  score: { label: "score", title: "what the objective gives the response up to the end of this line", write: plain },
  value: { label: "value", title: "estimate of the best completion", write: plain },
  visits: { label: "visits", title: "simulations that came through", write: counted },
};

/** What siblings can be sorted by. A line's end is no measure between lines of many lengths; its first token is one. */
const ORDERS = {
  visits: { label: "visits", value: (tree, line) => tree.visits[line] },
  candidate: { label: "candidate", value: (tree, line) => -(outline.ranks.get(line) ?? Infinity) },
  value: { label: "value", value: (tree, line) => tree.value[line] },
  score: { label: "score", value: (tree, line) => tree.score[line] },
  logp: { label: "log π of the first token", value: (tree, line) => tree.logp[line][0] },
};

const treeColumns = () => Object.keys(COLUMNS).filter((name) => state.result.tree[name].length);
const below = (line) => outline.lines[line + 1];
const rowOf = (line) => find("tree").querySelector(`[data-line="${line}"]`);

/** Show the tree of a prompt, open along its best candidate. */
function startTree() {
  const { tree, best, candidates } = state.result;
  find("tree-box").hidden = !tree;
  if (!tree) return;
  const count = tree.above.length;
  find("tree-title").textContent = count ? `Tree: ${counted(tree.tokens)} tokens looked at, in ${counted(count)} lines` : "Tree: nothing behind the prompt";
  for (const part of document.querySelectorAll(".tree-tools, #tree")) part.hidden = !count;
  const sorts = Object.entries(ORDERS).filter(([name]) => !tree[name] || tree[name].length);
  find("tree-sort").replaceChildren(...sorts.map(([value, { label }]) => make("option", { value }, label)));
  outline.best = best === null || candidates[best].line === null ? new Set() : way(candidates[best].line);
  outline.most = tree.visits.reduce((most, visits) => Math.max(most, visits), 1);
  outline.candidates = new Map();
  outline.ranks = new Map();
  candidates.forEach(({ line }, number) => {
    if (line === null) return;
    outline.candidates.set(line, [...(outline.candidates.get(line) || []), number]);
    for (const above of way(line)) outline.ranks.set(above, Math.min(number, outline.ranks.get(above) ?? number));
  });
  sortTree();
}

/** Return a line and all that are above it. */
function way(line) {
  const lines = new Set();
  for (let at = line; at >= 0; at = state.result.tree.above[at]) lines.add(at);
  return lines;
}

/** Order siblings by what is chosen, the largest first; the tree opens anew along the best candidate. */
function sortTree() {
  const { tree } = state.result;
  const { value } = ORDERS[find("tree-sort").value];
  const numbers = tree.above.map((_, line) => value(tree, line) ?? -Infinity);
  outline.lines = Array.from({ length: tree.above.length + 1 }, () => []);
  tree.above.forEach((above, line) => below(above).push(line));
  for (const lines of outline.lines) lines.sort((a, b) => (numbers[a] === numbers[b] ? a - b : numbers[b] - numbers[a]));
  closeTree();
  openWay(outline.best);
}

function closeTree() {
  outline.opened.clear();
  outline.limits.clear();
  drawTree();
}

/** Open the tree along lines that lead somewhere. */
function openWay(lines) {
  for (const line of lines) {
    const above = state.result.tree.above[line];
    if (above >= 0) outline.opened.add(above);
    const place = below(above).indexOf(line) + 1;
    outline.limits.set(above, Math.max(place, outline.limits.get(above) || SIBLINGS));
  }
  drawTree();
}

function showInTree(line) {
  openWay(way(line));
  focusLine(rowOf(line));
  document.activeElement.scrollIntoView({ block: "center" });
}

function drawTree() {
  const columns = treeColumns().map((name) => COLUMNS[name]);
  const heads = columns.map(({ label, title }) => make("span", { role: "columnheader", class: "number", title }, label));
  const box = find("tree");
  box.style.setProperty("--columns", columns.length);
  box.replaceChildren(make("div", { role: "row", class: "line heads" }, make("span", { role: "columnheader" }, "tokens"), ...heads), ...rowsBelow(-1, 1));
  const first = box.querySelector(".line[aria-level]");
  if (first) first.tabIndex = 0;
}

/** Return the rows below a line from a sibling on, with those below them that are open. */
function rowsBelow(above, level, from = 0, rows = []) {
  const siblings = below(above);
  const upTo = Math.min(siblings.length, outline.limits.get(above) || SIBLINGS);
  for (const line of siblings.slice(from, upTo)) {
    rows.push(lineRow(line, level));
    if (outline.opened.has(line)) rowsBelow(line, level + 1, 0, rows);
  }
  if (upTo < siblings.length) rows.push(moreRow(above, level, upTo, siblings.length - upTo));
  return rows;
}

function lineRow(line, level) {
  const { tree } = state.result;
  const count = below(line).length;
  const open = outline.opened.has(line);
  const names = ["line", outline.best.has(line) ? "best" : "", tree.visits[line] === 0 ? "unvisited" : ""];
  const row = make("div", { role: "row", class: names.filter(Boolean).join(" "), "aria-level": level, tabindex: "-1", "data-line": line, "aria-expanded": count ? String(open) : null });
  row.style.setProperty("--level", Math.min(level - 1, 24));
  const name = make("span", { role: "gridcell", class: "name" }, make("span", { class: "twist", "aria-hidden": "true" }), lineText(line));
  if (tree.ends[line]) name.append(make("span", { class: "end", title: "the response ends here" }, " ■ end"));
  for (const number of outline.candidates.get(line) || []) {
    name.append(make("span", { class: "badge", title: `candidate ${number + 1} leads here` }, String(number + 1)));
  }
  if (count) name.append(make("span", { class: "quiet below", title: "lines below" }, `${counted(tree.below[line])} below`));
  row.append(name, ...treeColumns().map((column) => numberCell(column, line)));
  return row;
}

/** Return the tokens of a line, each with its numbers. */
function lineText(line) {
  const { tree } = state.result;
  const [id, text, logp] = [tree.id[line], tree.text[line], tree.logp[line]];
  const last = id.length - 1;
  const tokens = id.map((number, place) => {
    const name = named(text[place], number, tree.ends[line] && place === last);
    return make("span", { title: `“${name}” id ${number}, log π ${plain(logp[place])} (${percent(logp[place])})` }, chained(text[place]) || name);
  });
  return make("bdi", { class: "chain" }, ...tokens);
}

/** Return a token of a chain: its blanks are blanks, unless it has nothing else. */
const chained = (text) => (/^ *$/.test(text) ? visible(text) : text.split(SPLIT).map((part) => glyph(part) || part).join(""));

function numberCell(column, line) {
  const { label, title, write } = COLUMNS[column];
  const value = state.result.tree[column][line];
  const cell = make("span", { role: "gridcell", class: `number ${column}`, "data-label": label, title }, write(value));
  if (column === "visits") cell.style.setProperty("--share", (value / outline.most).toFixed(3));
  return cell;
}

function moreRow(above, level, from, left) {
  const button = make("button", { type: "button", tabindex: "-1" }, moreOf(left, SIBLINGS));
  const row = make("div", { role: "row", class: "line more", "aria-level": level, tabindex: "-1" }, make("span", { role: "gridcell", class: "name" }, button));
  row.style.setProperty("--level", Math.min(level - 1, 24));
  row.showMore = () => {
    outline.limits.set(above, from + SIBLINGS);
    const rows = rowsBelow(above, level, from);
    row.replaceWith(...rows);
    focusLine(rows[0]);
  };
  return row;
}

/** Open a line, or close it with all that is drawn below it. */
function turn(row, open) {
  const line = Number(row.dataset.line);
  if (!row.hasAttribute("aria-expanded") || (row.getAttribute("aria-expanded") === "true") === open) return false;
  row.setAttribute("aria-expanded", String(open));
  const level = Number(row.getAttribute("aria-level"));
  if (open) {
    outline.opened.add(line);
    row.after(...rowsBelow(line, level + 1));
  } else {
    outline.opened.delete(line);
    while (row.nextSibling && Number(row.nextSibling.getAttribute("aria-level")) > level) row.nextSibling.remove();
  }
  return true;
}

const focusLine = (row) => rove(find("tree").querySelector('.line[tabindex="0"]'), row);

function clicked(event) {
  const row = event.target.closest(".line:not(.heads)");
  if (!row || String(getSelection())) return;
  focusLine(row);
  if (row.showMore) row.showMore();
  else turn(row, row.getAttribute("aria-expanded") === "false");
}

/** Walk through the tree by keys, as treegrids are walked. */
function walkTree(event) {
  const row = event.target.closest(".line");
  if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
  const rows = [...find("tree").querySelectorAll(".line:not(.heads)")];
  const at = rows.indexOf(row);
  const level = Number(row.getAttribute("aria-level"));
  const open = row.getAttribute("aria-expanded") === "true";
  const above = () => rows.slice(0, at).findLast((other) => Number(other.getAttribute("aria-level")) < level);
  const acts = {
    ArrowDown: () => rows[at + 1],
    ArrowUp: () => rows[at - 1],
    Home: () => rows[0],
    End: () => rows[rows.length - 1],
    ArrowRight: () => !turn(row, true) && open && rows[at + 1],
    ArrowLeft: () => !turn(row, false) && above(),
    Enter: () => (row.showMore ? row.showMore() : turn(row, !open), null),
  };
  if (!Object.hasOwn(acts, event.key)) return;
  event.preventDefault();
  const next = acts[event.key]();
  if (next) focusLine(next);
}

function listenToTree() {
  find("tree").addEventListener("click", clicked);
  find("tree").addEventListener("keydown", walkTree);
  find("tree-sort").addEventListener("change", sortTree);
  find("open-best").addEventListener("click", () => openWay(outline.best));
  find("close-all").addEventListener("click", closeTree);
}

startPage();
