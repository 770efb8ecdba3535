// The page itself: the row that is open, and what is asked for by keys and in its address.

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

const KEYS = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => step(-Infinity),
  End: () => step(Infinity),
  n: () => jump(1),
  p: () => jump(-1),
  l: nextLevel,
  o: changeSide,
  t: toggleTable,
  "[": () => nextRow(-1),
  "]": () => nextRow(1),
  "?": toggleKeys,
  Escape: letGo,
  Enter: () => state.cursor && pin(state.cursor.view, state.cursor.token),
};

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

function chooseSort(how) {
  Object.assign(state, how);
  find("direction").textContent = state.descending ? "↓" : "↑";
  drawRows();
}

function listen() {
  listenToControls({
    direction: () => chooseSort({ descending: !state.descending }),
    "export-json": exportJson,
    "export-csv": exportCsv,
    "export-svg": exportSvg,
  });
  find("filter").addEventListener("input", (event) => chooseSort({ filter: event.target.value }));
  window.addEventListener("hashchange", recall);
}

async function start() {
  find("list").hidden = index.rows.length < 2;
  if (!index.rows.length) {
    find("main").replaceChildren(make("p", {}, "There are no traces on this page."));
    return;
  }
  document.querySelector(".frame").classList.toggle("listed", index.rows.length > 1);
  fillControls();
  const sorts = Object.keys(SORTS).filter((name) => name !== "margin" || index.rows.some((entry) => entry.margin !== null));
  fillSelect("sort", sorts.map((name) => [name, SORTS[name].label]), (name) => chooseSort({ sort: name }));
  measureBar();
  drawRows();
  await recall();
  listen();
}

start();
