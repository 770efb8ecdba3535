// The page itself: what is asked for in its controls, by keys and in its address, and the row that is open.

/** Open a row, one response or a pair side by side, and tell whether it is the one to be shown when it is there. */
async function openRow(number) {
  const entry = index.rows[number];
  state.row = number;
  markRow();
  find("main").setAttribute("aria-busy", "true");
  const [pair, ...traces] = await Promise.all([entry.pair === null ? null : unpacked(`pair-${entry.pair}`), ...entry.traces.map(openTrace)]);
  if (state.row !== number) return false; // meanwhile the reader went on
  Object.assign(state, { cursor: null, pinned: false, pair });
  state.views = traces.map(openView);
  find("main").removeAttribute("aria-busy");
  const texts = find("texts");
  texts.className = state.pair ? "texts pair" : "texts alone";
  texts.replaceChildren(...state.views.map((view) => view.node));
  say("");
  about();
  prompt();
  paint();
  drawCurve();
  drawShares();
  drawTable();
  inspect();
  remember();
  return true;
}

/** Say which models these numbers are of, and what may be wrong with them. */
function about() {
  const { trace } = state.views[0];
  const [policy, reference, judge] = [trace.policy, trace.reference, trace.reward_model].map((number) => index.models[number] ?? {});
  const name = (model) => String(model.path ?? model.name ?? "unnamed");
  const fact = (label, text) => make("span", {}, `${label} `, make("b", {}, text));
  const facts = isRead(trace) ? [fact("policy", name(policy)), fact("reference", name(reference)), fact("β", String(trace.beta))] : [];
  if (policy.dtype) facts.push(fact("dtype", String(policy.dtype)));
  if (isRewarded(trace)) facts.push(fact("reward model", name(judge)));
  if (state.pair) facts.push(fact("margin", written(state.pair.margin)));
  const told = [["row", index.rows[state.row].name], ...(isRead(trace) ? [["gauge", trace.gauge]] : [])];
  told.push(...told_of("policy", policy), ...told_of("reference", reference), ...told_of("reward model", judge));
  const list = make("dl", {}, ...told.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));
  const box = find("about");
  box.replaceChildren(...facts, make("details", {}, make("summary", {}, "Identities and conventions"), list));
  const warnings = [...new Set(state.views.flatMap((view) => view.trace.warnings))];
  if (warnings.length) box.append(make("ul", { class: "warnings" }, ...warnings.map((text) => make("li", {}, text))));
}

const told_of = (who, model) =>
  Object.entries(model).map(([name, value]) => [`${who}: ${name}`, typeof value === "object" ? JSON.stringify(value) : String(value)]);

function prompt() {
  const text = state.views[0].trace.prompt;
  find("prompt").hidden = !text;
  find("prompt").open = text.length < 700;
  find("prompt-text").textContent = text;
}

/** Colour anew, and all that depends on the colour. */
function refresh() {
  if (!state.views.length) return; // the first row is on its way
  paint();
  drawCurve();
  drawShares();
  drawTable();
  if (state.cursor) select(state.cursor.view, state.cursor.token);
  remember();
}

function setChannel(number) {
  if (!CHANNELS[number]) return;
  state.channel = CHANNELS[number];
  showChoices();
  refresh();
}

function setLevel(level) {
  if (!index.levels.includes(level)) return;
  state.level = level;
  showChoices();
  if (state.sort === "worst") drawRows();
  refresh();
}

function toggleTable() {
  const box = find("table");
  box.hidden = !box.hidden;
  find("table-button").setAttribute("aria-expanded", String(!box.hidden));
  drawTable();
  if (!box.hidden) box.scrollIntoView({ block: "nearest" });
}

function toggleKeys() {
  const keys = find("keys");
  keys.hidden = !keys.hidden;
  find("help").setAttribute("aria-expanded", String(!keys.hidden));
}

function turnTheme() {
  const root = document.documentElement;
  const next = { undefined: "light", light: "dark", dark: undefined }[root.dataset.theme];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  find("theme").textContent = `Theme: ${next || "system"}`;
}

function letGo() {
  if (state.pinned && state.cursor) {
    state.pinned = false;
    select(state.cursor.view, state.cursor.token);
  } else {
    unmark();
    state.cursor = null;
    inspect();
    moveCurveCursor();
  }
  remember();
}

const KEYS = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => step(-Infinity),
  End: () => step(Infinity),
  n: () => jump(1),
  p: () => jump(-1),
  l: () => setLevel(index.levels[(index.levels.indexOf(state.level) + 1) % index.levels.length]),
  o: changeSide,
  t: toggleTable,
  "[": () => nextRow(-1),
  "]": () => nextRow(1),
  "?": toggleKeys,
  Escape: letGo,
  Enter: () => state.cursor && pin(state.cursor.view, state.cursor.token),
};
CHANNELS.forEach((_, number) => (KEYS[String(number + 1)] = () => setChannel(number)));

/** Keys belong to the page, except where a control has its own use for them. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const control = event.target.closest("input, select, textarea, button, summary, a");
  const typing = control && control.matches('select, textarea, input:not([type="radio"])');
  const moves = ["Enter", "ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key);
  const scrolls = ["Home", "End"].includes(event.key) && !event.target.closest(".token");
  if (typing || (control && moves) || scrolls || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

/** Keep the place in the address, so that it can be handed on. */
function remember() {
  const place = new URLSearchParams({ row: index.rows[state.row].name, channel: state.channel.name, level: state.level });
  if (state.pinned && state.cursor) {
    place.set("side", state.cursor.view.side);
    place.set("token", state.cursor.token);
  }
  try {
    history.replaceState(null, "", `#${place}`);
  } catch {
    // An address that may not be changed (some viewers) costs only the link.
  }
}

/** Go where the address points. */
async function recall() {
  const place = new URLSearchParams(location.hash.slice(1));
  const number = index.rows.findIndex((entry) => entry.name === place.get("row"));
  const channel = CHANNELS.findIndex(({ name }) => name === place.get("channel"));
  state.channel = CHANNELS[Math.max(0, channel)];
  state.level = index.levels.includes(place.get("level")) ? place.get("level") : "token";
  showChoices();
  if (!(await openRow(Math.max(0, number)))) return;
  const view = state.views[Number(place.get("side") || 0)];
  const token = place.has("token") ? Number(place.get("token")) : -1;
  if (view && view.nodes[token]) goTo(view, token);
}

/** Let the controls say what is shown. */
function showChoices() {
  find(`channel-${CHANNELS.indexOf(state.channel)}`).checked = true;
  find("level").value = state.level;
  find("aggregate-box").hidden = state.level === "token" || state.channel.so_far;
}

function fillControls() {
  CHANNELS.forEach(({ label, formula }, number) => {
    const input = make("input", { type: "radio", name: "channel", id: `channel-${number}`, onchange: () => setChannel(number) });
    find("channels").append(make("label", { title: `${formula} (${number + 1})` }, input, label));
  });
  const options = (id, entries, choose) => {
    find(id).append(...entries.map(([value, label]) => make("option", { value }, label)));
    find(id).addEventListener("change", (event) => choose(event.target.value));
  };
  find("last-channel").textContent = String(CHANNELS.length);
  find("underline-box").hidden = CHANNELS.every(({ so_far }) => so_far); // all of it is said by a policy
  options("level", index.levels.map((level) => [level, level]), setLevel);
  const unders = Object.entries(UNDERLINES).map(([name, { label }]) => [name, label]);
  options("underline", [["", "none"], ...unders], (name) => chose("underline", name));
  options("aggregate", [], (name) => chose("aggregate", name));
  options("scale", [], (name) => chose("scale", name));
  const sorts = Object.keys(SORTS).filter((name) => name !== "margin" || index.rows.some((entry) => entry.margin !== null));
  options("sort", sorts.map((name) => [name, SORTS[name].label]), (name) => chooseSort({ sort: name }));
  find("intensity").addEventListener("input", (event) => chose("intensity", Number(event.target.value)));
}

function chose(what, value) {
  state[what] = value;
  if (what === "intensity" || what === "underline") paint();
  else refresh();
}

function chooseSort(how) {
  Object.assign(state, how);
  find("direction").textContent = state.descending ? "↓" : "↑";
  drawRows();
}

function listen() {
  const clicks = {
    next: () => jump(1),
    previous: () => jump(-1),
    theme: turnTheme,
    help: toggleKeys,
    "table-button": toggleTable,
    direction: () => chooseSort({ descending: !state.descending }),
    "export-json": exportJson,
    "export-csv": exportCsv,
    "export-svg": exportSvg,
  };
  for (const [id, act] of Object.entries(clicks)) find(id).addEventListener("click", act);
  find("filter").addEventListener("input", (event) => chooseSort({ filter: event.target.value }));
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", recall);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) drawCurve();
    width = window.innerWidth;
  });
}

async function start() {
  find("list").hidden = index.rows.length < 2;
  if (!index.rows.length) {
    find("main").replaceChildren(make("p", {}, "There are no traces on this page."));
    return;
  }
  document.querySelector(".frame").classList.toggle("listed", index.rows.length > 1);
  fillControls();
  measureBar();
  drawRows();
  await recall();
  listen();
}

start();
