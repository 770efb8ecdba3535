// The branches of a session: a list in the order of a tree or by reward, the way to the one that is open, and what is
// done with one: open, put beside, rename, delete, prefer, undo.

/** What the app holds beside what is drawn (state). */
const app = {
  about: null,
  session: null, // as the server has it
  open: null, // the branch that is shown
  beside: null, // the one beside it
  drafts: [], // what is being written: see draft.js
  run: null, // { id, kind } of what runs
  undo: [], // { label, act }
  filter: "",
};

const branchOf = (id) => app.session?.branches.find((branch) => branch.id === id) ?? null;
const leaves = (id) => app.session.branches.filter((branch) => branch.parent === id);

/** Return the branches from the first one down to this one. A parent that was deleted is passed by. */
function wayTo(branch) {
  const path = [];
  for (let at = branch; at; at = branchOf(at.parent)) path.unshift(at);
  return path;
}

/** Return [branch, depth] in the order of the tree, or by reward. */
function branchOrder() {
  const all = app.session.branches;
  if (find("order").value === "reward") {
    return all.toSorted((a, b) => (b.total ?? -Infinity) - (a.total ?? -Infinity)).map((branch) => [branch, 0]);
  }
  const rows = [];
  const under = (list, depth) => list.forEach((branch) => (rows.push([branch, depth]), under(leaves(branch.id), depth + 1)));
  under(all.filter((branch) => !branchOf(branch.parent)), 0);
  return rows;
}

/** Draw the list of branches, and of what is being written. */
function drawBranches() {
  const box = find("branches");
  const none = !app.session || !(app.session.branches.length || app.drafts.length);
  find("branches-box").hidden = none;
  if (none) return;
  const focused = document.activeElement?.closest?.("#branches .branch")?.dataset.branch;
  const most = Math.max(1e-9, ...app.session.branches.map(({ total }) => Math.abs(total ?? 0)));
  const rows = branchOrder().map(([branch, depth], place) => branchRow(branch, depth, place, most));
  box.replaceChildren(...rows, ...app.drafts.map(draftRow));
  const current = box.querySelector('[aria-selected="true"]') ?? box.firstElementChild;
  if (current) current.tabIndex = 0;
  if (focused) box.querySelector(`[data-branch="${focused}"]`)?.focus();
  crumbs();
  find("undo").disabled = !app.undo.length;
  find("undo").textContent = app.undo.length ? `Undo: ${app.undo.at(-1).label}` : "Undo";
}

function branchRow(branch, depth, place, most) {
  const open = branch.id === app.open;
  const beside = branch.id === app.beside;
  const better = app.session.pairs.filter(([id]) => id === branch.id).length;
  const worse = app.session.pairs.filter(([, id]) => id === branch.id).length;
  const bar = make("span", { class: `bar ${branch.total > 0 ? "positive" : "negative"}`, "aria-hidden": "true" });
  bar.style.setProperty("--share", (Math.abs(branch.total ?? 0) / most).toFixed(3));
  const node = make(
    "div",
    { class: "branch", role: "option", tabindex: "-1", "data-branch": branch.id, "aria-selected": String(open), onclick: (event) => chooseBranch(branch.id, event) },
    make("span", { class: "sign", "aria-hidden": "true" }, open ? "▶" : beside ? "▷" : ""),
    make("span", { class: "name" }, make("bdi", {}, branch.name)),
    make("span", { class: "marks" }, ...marksOf(branch, better, worse)),
    make("span", { class: "number", title: "implicit reward of the whole response" }, written(branch.total)),
    bar,
    make("span", { class: "quiet preview", dir: "auto" }, previewOf(branch)),
  );
  node.style.setProperty("--depth", Math.min(depth, 12));
  node.title = `${branch.name}: implicit reward ${written(branch.total)}, ${branch.ids.length} tokens`;
  if (find("order").value === "reward") node.querySelector(".sign").before(make("span", { class: "quiet rank" }, `${place + 1}.`));
  return node;
}

function marksOf(branch, better, worse) {
  const marks = [];
  if (better) marks.push(make("span", { class: "badge best", title: `better than ${better}` }, `★ ${better}`));
  if (worse) marks.push(make("span", { class: "badge", title: `worse than ${worse}` }, `☆ ${worse}`));
  if (!branch.terminal) marks.push(make("span", { class: "badge", title: "it has no EOS" }, "cut"));
  if (branch.warnings.length > Number(!branch.terminal)) marks.push(make("span", { class: "badge", title: branch.warnings.join("; ") }, "⚠"));
  return marks;
}

/** Return the words of a branch behind those of its parent. */
function previewOf(branch) {
  const parent = branchOf(branch.parent);
  const shared = parent ? sharedText(branch.text, parent.text) : 0;
  const text = visible(branch.text.slice(shared, shared + 160));
  return `${shared ? "…" : ""}${text}`;
}

function sharedText(one, other) {
  let place = 0;
  while (place < one.length && one[place] === other[place]) place += 1;
  return place > 0 && /[\ud800-\udbff]/.test(one[place - 1]) ? place - 1 : place;
}

/** Draw the way to the branch that is open. */
function crumbs() {
  const branch = branchOf(app.open);
  const parts = [make("button", { type: "button", onclick: () => find("prompt-box").focus() }, "prompt")];
  for (const one of branch ? wayTo(branch) : []) {
    const from = branchOf(one.parent) ? ` from token ${one.at + 1}` : "";
    parts.push(
      make("span", { class: "quiet", "aria-hidden": "true" }, "›"),
      make("button", { type: "button", "aria-current": one === branch ? "true" : null, onclick: () => openBranch(one.id) }, make("bdi", {}, one.name), make("span", { class: "quiet" }, `${from} ${written(one.total)}`)),
    );
  }
  find("crumbs").replaceChildren(...parts);
}

const chooseBranch = (id, event) => (event.shiftKey || event.ctrlKey || event.metaKey ? putBeside(id) : openBranch(id));

/** Show a branch, and beside it the one that stands there. */
function openBranch(id, beside = null) {
  const before = [app.open, app.beside];
  if (before[0] && before[0] !== id) undoable("opened", () => showBranches(...before));
  return showBranches(id, beside === id ? null : beside);
}

/** Put a branch beside the one that is open; the one it came from where none is named. */
function putBeside(id) {
  const open = branchOf(app.open);
  if (!open) return;
  if (!id && app.beside) return showBranches(app.open, null);
  const others = app.session.branches.filter((branch) => branch.id !== open.id);
  const other = branchOf(id) ?? branchOf(open.parent) ?? others.findLast((branch) => branch.parent === open.parent) ?? others.at(-1);
  if (!other) return say("There is no other branch yet. Write one, or take another token.");
  if (other.id !== open.id) return showBranches(open.id, other.id);
}

function nextBranch(by) {
  if (!app.session?.branches.length) return;
  const ids = branchOrder().map(([branch]) => branch.id);
  const at = ids.indexOf(app.open);
  const next = ids[Math.min(ids.length - 1, Math.max(0, at + by))];
  if (next !== app.open) openBranch(next);
}

/** Walk through the list of branches by keys. */
function walkBranches(event) {
  const row = event.target.closest(".branch");
  if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
  const rows = [...find("branches").children];
  const at = rows.indexOf(row);
  const acts = {
    ArrowDown: () => rove(row, rows[Math.min(rows.length - 1, at + 1)]),
    ArrowUp: () => rove(row, rows[Math.max(0, at - 1)]),
    Home: () => rove(row, rows[0]),
    End: () => rove(row, rows.at(-1)),
    Enter: () => row.click(),
    " ": () => row.click(),
    b: () => putBeside(row.dataset.branch),
  };
  if (!Object.hasOwn(acts, event.key)) return;
  event.preventDefault();
  event.stopPropagation();
  acts[event.key]();
}

const undoable = (label, act) => app.undo.push({ label, act });

async function undo() {
  const last = app.undo.pop();
  if (!last) return say("There is nothing to undo.");
  await tried(last.act);
  drawBranches();
  say(`Undone: ${last.label}.`);
}

/** Take what the server has for a session. */
function took(session) {
  app.session = session;
  if (!branchOf(app.open)) app.open = null;
  if (!branchOf(app.beside)) app.beside = null;
  told(session.id);
  drawBranches();
  drawSessions();
}

/** Change a branch, and be able to change it back. */
async function changeBranch(branch, change, label, back) {
  const patched = (how) => sent("PATCH", ofSession(`/branches/${branch.id}`), how).then(took);
  await patched(change);
  undoable(label, async () => {
    await patched(back);
    if (back.deleted === false) await showBranches(branch.id, null);
  });
  drawBranches();
}

async function renameBranch() {
  const branch = branchOf(app.open);
  if (!branch) return;
  find("name-title").textContent = "Name of this branch";
  const name = (await answered("name-dialog", "name-box", branch.name))?.trim();
  if (name && name !== branch.name) {
    await tried(() => changeBranch(branch, { name }, `renamed ${branch.name}`, { name: branch.name }));
    await showBranches(app.open, app.beside);
  }
}

async function deleteBranch() {
  const branch = branchOf(app.open);
  if (!branch || app.run) return;
  await tried(async () => {
    await changeBranch(branch, { deleted: true }, `deleted ${branch.name}`, { deleted: false });
    const next = branchOf(branch.parent) ?? app.session.branches.at(-1);
    await showBranches(next?.id ?? null, null);
    say(`${branch.name} is deleted; u puts it back.`);
  });
}

/** Remember which of the two that are shown is better: 0 the left one, 1 the right one. */
async function prefer(which) {
  const pair = [app.open, app.beside];
  if (!pair[1]) return say("Put two branches side by side first (b).");
  const [better, worse] = which ? pair.toReversed() : pair;
  const before = app.session.pairs.find(([one, other]) => pair.includes(one) && pair.includes(other));
  await tried(async () => {
    took(await sent("PUT", ofSession("/pairs"), { better, worse }));
    const back = before
      ? () => sent("PUT", ofSession("/pairs"), { better: before[0], worse: before[1] })
      : () => sent("DELETE", ofSession(`/pairs?one=${better}&other=${worse}`));
    undoable("which is better", async () => (took(await back()), verdict()));
    drawBranches();
    verdict();
    say(`${branchOf(better).name} is better than ${branchOf(worse).name}: a pair to train from, ${app.session.pairs.length} in this session.`);
  });
}

/** Ask which of the two that are shown is better, and say what was answered. */
function verdict() {
  const pair = [app.open, app.beside].map(branchOf);
  find("verdict").hidden = !pair[1];
  if (!pair[1]) return;
  const held = app.session.pairs.find((ids) => pair.every((branch) => ids.includes(branch.id)));
  const buttons = pair.map((branch, which) =>
    make("button", { type: "button", "aria-pressed": String(held?.[0] === branch.id), title: which ? ">" : "<", onclick: () => prefer(which) }, `${held?.[0] === branch.id ? "★ " : ""}`, make("bdi", {}, branch.name), " is better"),
  );
  find("verdict").replaceChildren(...buttons, make("span", { class: "quiet" }, held ? "kept as a pair to train from" : "keeps a pair to train from"));
}
