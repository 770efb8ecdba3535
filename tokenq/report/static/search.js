// The page of a search: the list of its prompts, the prompt that is open, and what is asked for in controls and address.
// Stands behind data.js, which makes elements and writes numbers and texts, and before the script's other parts.

Object.assign(state, {
  result: null,
  nodes: [], // a list a candidate: its tokens on screen
  grey: true,
  wish: CHANNELS[0], // the colour asked for; another one stands in where a prompt has no numbers for it
});

// The list of prompts.

const SORTS = {
  data: { label: "as in the data", value: () => null },
  score: { label: "best score", value: (entry) => entry.score },
  tokens: { label: "tokens", value: (entry) => entry.tokens },
};

function listed() {
  const wanted = state.filter.toLowerCase();
  const said = (entry) => [entry.name, entry.preview, entry.method, entry.objective, ...entry.badges].join(" ").toLowerCase();
  const kept = index.rows.map((_, number) => number).filter((number) => said(index.rows[number]).includes(wanted));
  const turned = state.descending ? -1 : 1;
  const value = (number) => SORTS[state.sort].value(index.rows[number]);
  return kept.sort((a, b) => {
    const [one, other] = [value(a), value(b)];
    if (one === null || other === null) return one === other ? turned * (a - b) : one === null ? 1 : -1;
    return turned * (one - other) || a - b;
  });
}

function drawRows() {
  const numbers = listed();
  state.drawUpTo = lazily(find("rows"), find("rows"), numbers, (number) => make("li", {}, rowButton(number)));
  const all = index.rows.length;
  find("list-count").textContent = numbers.length === all ? `${all} prompts` : `${numbers.length} of ${all} prompts`;
  find("direction").textContent = state.descending ? "↓" : "↑";
}

function rowButton(number) {
  const entry = index.rows[number];
  const how = `${entry.method}, ${entry.objective}`;
  return make(
    "button",
    { type: "button", "data-row": number, "aria-current": String(number === state.row), title: `${entry.name}: ${how}, best score ${plain(entry.score)}`, onclick: () => openRow(number) },
    rowName(entry.name),
    make("span", { class: "number" }, plain(entry.score)),
    make("span", { class: "preview", dir: "auto" }, visible(entry.preview)),
    make("span", { class: "how" }, make("bdi", {}, how), make("span", {}, `${counted(entry.tokens)} tokens`)),
    ...badges(entry),
  );
}

const badges = (entry) => (entry.badges.length ? [make("span", { class: "badges" }, ...entry.badges.map(badge))] : []);
const badge = (text) => make("span", { class: "badge" }, text);

function nextRow(by) {
  const numbers = listed();
  const next = numbers[Math.min(numbers.length - 1, Math.max(0, numbers.indexOf(state.row) + by))];
  if (next !== undefined && next !== state.row) openRow(next);
}

// One prompt.

function openRow(number) {
  state.row = number;
  state.result = island(`result-${number}`);
  about();
  prompt();
  drawCandidates();
  startTree();
  markRow();
  remember();
}

/** Mark the row in the list, and bring it into sight there. */
function markRow() {
  const rows = find("rows");
  state.drawUpTo(listed().indexOf(state.row) + 1);
  for (const button of rows.querySelectorAll("button")) {
    const current = Number(button.dataset.row) === state.row;
    button.setAttribute("aria-current", String(current));
    const [box, at] = [rows.getBoundingClientRect(), button.getBoundingClientRect()];
    if (current && (at.top < box.top || at.bottom > box.bottom)) rows.scrollTop += at.top - box.top - box.height / 3;
  }
}

function about() {
  const entry = index.rows[state.row];
  const { cost } = state.result;
  const fact = (label, text) => make("span", {}, `${label} `, make("b", {}, make("bdi", {}, text)));
  const facts = [
    fact("prompt", entry.name),
    fact("method", entry.method),
    fact("objective", entry.objective),
    fact("policy", `${counted(cost.policy_tokens)} tokens`),
    fact("reference", `${counted(cost.reference_tokens)} tokens`),
    ...(cost.value_tokens ? [fact("judge", `${counted(cost.value_tokens)} tokens`)] : []),
    fact("its share of the time", `${plain(cost.seconds)} s`),
  ];
  if (cost.peak_memory) facts.push(fact("peak memory", `${(cost.peak_memory / 1e9).toFixed(2)} GB`));
  find("about").replaceChildren(...facts, ...badges(entry));
}

function prompt() {
  const text = state.result.prompt;
  const turns = typeof text === "string" ? null : text;
  const length = turns ? turns.reduce((sum, turn) => sum + turn.content.length, 0) : text.length;
  find("prompt").open = length < 700;
  find("prompt").querySelector("summary").textContent = `Prompt, ${counted(length)} characters`;
  const turn = ({ role, content }) => make("div", { class: "turn", dir: "auto" }, make("b", {}, make("bdi", {}, role)), spelled(content));
  find("prompt-text").replaceChildren(...(turns ? turns.map(turn) : [spelled(text)]));
}

/** Return a text as it is, with signs beside what cannot be seen. */
function spelled(text) {
  const node = make("span");
  for (const part of text.split(SPLIT)) {
    const sign = glyph(part);
    if (sign) node.append(make("span", { class: sign.length > 1 ? "glyph boxed" : "glyph", "data-glyph": sign }, part));
    else if (part) node.append(part);
  }
  return node;
}

// What is asked for in the controls, by keys and in the address.

function toggleKeys() {
  const keys = find("keys");
  keys.hidden = !keys.hidden;
  find("help").setAttribute("aria-expanded", String(!keys.hidden));
}

function goToTree() {
  const row = find("tree").querySelector('[tabindex="0"]');
  if (row) row.focus();
}

const KEYS = {
  "[": () => nextRow(-1),
  "]": () => nextRow(1),
  g: () => setGrey(!state.grey),
  c: () => find("found-title").focus(),
  t: goToTree,
  "?": toggleKeys,
};
CHANNELS.forEach((_, number) => (KEYS[String(number + 1)] = () => setChannel(number)));

/** Keys belong to the page, except where a control has its own use for them. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input:not([type=radio], [type=checkbox])")) return;
  if (!Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

/** Keep the place in the address, so that it can be handed on. */
function remember() {
  const place = new URLSearchParams({ row: index.rows[state.row].name, channel: state.wish.name });
  try {
    history.replaceState(null, "", `#${place}`);
  } catch {
    // An address that may not be changed (some viewers) costs only the link.
  }
}

/** Go where the address points. */
function recall() {
  const place = new URLSearchParams(location.hash.slice(1));
  state.wish = CHANNELS.find(({ name }) => name === place.get("channel")) || CHANNELS[0];
  openRow(Math.max(0, index.rows.findIndex(({ name }) => name === place.get("row"))));
}

function chooseSort(how) {
  Object.assign(state, how);
  drawRows();
}

function startPage() {
  find("list").hidden = index.rows.length < 2;
  if (!index.rows.length) {
    find("main").replaceChildren(make("p", {}, "There are no results on this page."));
    return;
  }
  document.querySelector(".frame").classList.toggle("listed", index.rows.length > 1);
  CHANNELS.forEach(({ label, formula }, number) => {
    const input = make("input", { type: "radio", name: "channel", id: `channel-${number}`, onchange: () => setChannel(number) });
    find("channels").append(make("label", { title: `${formula} (${number + 1})` }, input, label));
  });
  find("sort").append(...Object.entries(SORTS).map(([value, { label }]) => make("option", { value }, label)));
  find("sort").addEventListener("change", ({ target }) => chooseSort({ sort: target.value }));
  find("direction").addEventListener("click", () => chooseSort({ descending: !state.descending }));
  find("filter").addEventListener("input", ({ target }) => chooseSort({ filter: target.value }));
  find("grey").addEventListener("change", ({ target }) => setGrey(target.checked));
  find("help").addEventListener("click", toggleKeys);
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", recall);
  listenToTree();
  drawRows();
  recall();
}
