// The app: which branches are shown, what its keys do, and what its address remembers.

state.choices = choicesTable;

const readings = new Map(); // what the server has said of branches, by their ids

/** Return what was read of one branch, or of two beside each other. */
async function reading(...ids) {
  const name = ids.join(" ");
  if (!readings.has(name)) {
    if (readings.size > 40) readings.clear();
    const asked = await got(ofSession(`/reading?${ids.map((id) => `branch=${id}`).join("&")}`));
    readings.set(name, { traces: adopted(asked), pair: asked.pair });
  }
  return readings.get(name);
}

/** Show a branch, and one beside it; null for none. A token to go to may be named. */
async function showBranches(open, beside, place = {}) {
  Object.assign(app, { open, beside, shown: null });
  if (!open) {
    nothingShown();
    drawBranches();
    return remember();
  }
  const ids = beside ? [open, beside] : [open];
  const found = await tried(() => reading(...ids));
  if (!found || app.open !== open || app.beside !== beside || app.shown) return; // meanwhile something else was opened
  const begin = performance.now();
  Object.assign(state, { cursor: null, pinned: false, pair: found.pair });
  found.traces.forEach((trace, number) => {
    trace.id = branchOf(ids[number])?.name ?? trace.id;
    trace.side = beside ? trace.id : null;
  });
  state.views = found.traces.map(openView);
  placed();
  performance.measure("tokens drawn", { start: begin });
  drawBranches();
  const view = state.views[0];
  if (place.token !== undefined && view.nodes[place.token]) goTo(view, place.token);
  remember();
}

/** Put the texts that are open on the page, with all that belongs to them. */
function placed() {
  find("shown").hidden = find("inspector").hidden = find("curve").hidden = false;
  const texts = find("texts");
  texts.className = `texts ${state.views.length > 1 ? "pair" : "alone"}`;
  texts.classList.toggle("signs", find("signs").checked);
  texts.replaceChildren(...state.views.map((view) => view.node));
  index.rows[0] = { name: state.views.map(({ trace }) => trace.id).join(" and ") };
  if (state.level !== "token" && !state.views.every(({ trace }) => trace.spans[state.level])) state.level = "token";
  showChoices();
  const warnings = [...new Set(state.views.flatMap(({ trace }) => trace.warnings))];
  find("warnings").hidden = !warnings.length;
  find("warnings").replaceChildren(...warnings.map((text) => make("li", {}, text)));
  paint();
  drawCurve();
  drawShares();
  drawTable();
  inspect();
  verdict();
}

function nothingShown() {
  Object.assign(state, { views: [], cursor: null, pinned: false, pair: null });
  for (const id of ["shown", "inspector", "curve", "shares", "verdict", "table"]) find(id).hidden = true;
  find("texts").replaceChildren();
  find("from").textContent = "";
}

/** Keep the place in the address: a reload finds it, and so does another window. */
function remember() {
  const place = new URLSearchParams(app.session ? { session: app.session.id } : {});
  for (const name of ["open", "beside"]) if (app.session && app[name]) place.set(name, app[name]);
  place.set("channel", state.channel.name);
  if (state.pinned && state.cursor) place.set("token", state.cursor.token);
  history.replaceState(null, "", `#${place}`);
  const from = shownBranch() && state.pinned && state.cursor ? `on behind “${pieceName(state.cursor.view.trace, state.cursor.token)}”` : "from the start";
  find("from").textContent = find("search-from").textContent = app.session ? from : "";
  find("inspector").classList.toggle("held", state.pinned);
}

async function recall() {
  const place = new URLSearchParams(location.hash.slice(1));
  const channel = CHANNELS.findIndex(({ name }) => name === place.get("channel"));
  state.channel = CHANNELS[Math.max(0, channel)];
  showChoices();
  if (!place.get("session")) return newSession();
  await openSession(place.get("session"), place.get("open"), place.get("beside"));
  if (!app.session) return newSession();
  const token = Number(place.get("token") ?? -1);
  if (state.views[0]?.nodes[token]) goTo(state.views[0], token);
}

const KEYS = {
  ArrowLeft: () => state.views.length && step(-1),
  ArrowRight: () => state.views.length && step(1),
  Home: () => state.views.length && step(-Infinity),
  End: () => state.views.length && step(Infinity),
  n: () => state.views.length && jump(1),
  p: () => state.views.length && jump(-1),
  l: () => state.views.length && nextLevel(),
  t: () => state.views.length && toggleTable(),
  v: () => find("signs").click(),
  o: changeSide,
  a: goToChoices,
  w: () => write(beginning()),
  m: several,
  f: goToSearch,
  s: stop,
  "[": () => nextBranch(-1),
  "]": () => nextBranch(1),
  g: () => find("branches").querySelector('[tabindex="0"]')?.focus(),
  b: () => putBeside(null),
  "<": () => prefer(0),
  ">": () => prefer(1),
  r: renameBranch,
  x: deleteBranch,
  u: undo,
  e: () => find("prompt-box").focus(),
  c: newSession,
  "?": toggleKeys,
  Escape: letGo,
  Enter: () => state.cursor && pin(state.cursor.view, state.cursor.token),
};

/** Keys in the fields of prompt and response. */
function typed(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    (find("response-box").value ? readResponse : write)();
  } else if (event.key === "Escape") event.target.blur();
}

function listen() {
  listenToControls({
    read: readResponse,
    write: () => write(beginning()),
    many: several,
    stop,
    undo,
    new: newSession,
    rename: renameSession,
    "delete-session": deleteSession,
    "export-traces": exportTraces,
    "export-pairs": exportPairs,
    "export-all-pairs": exportAllPairs,
    "export-csv": () => state.views.length && exportCsv(),
    "export-svg": () => state.views.length && exportSvg(),
    "search-start": search,
    "search-stop": stop,
    "notice-close": () => notice(""),
  });
  for (const id of ["prompt-box", "response-box"]) find(id).addEventListener("keydown", typed);
  find("filter").addEventListener("input", drawSessions);
  find("order").addEventListener("change", drawBranches);
  find("signs").addEventListener("change", () => find("texts").classList.toggle("signs", find("signs").checked));
  find("branches").addEventListener("keydown", walkBranches);
  windows?.addEventListener("message", ({ data }) => anotherWindow(data));
  window.addEventListener("hashchange", recall);
}

/** Take what another window has changed. */
async function anotherWindow(id) {
  await loadSessions();
  if (app.session?.id !== id || app.run) return;
  const session = await got(`/app/sessions/${id}`).catch((problem) => problem);
  if (session.status === 404) return newSession(), notice("This session was deleted in another window.");
  if (session instanceof Error) return;
  const open = app.open;
  app.session = session;
  if (!branchOf(open)) return showBranches(session.branches.at(-1)?.id ?? null, null);
  drawBranches();
  drawSessions();
}

/** Say which models write and read here. */
function aboutModels() {
  const fact = (label, text) => make("div", { title: text }, make("dt", {}, label), make("dd", {}, make("bdi", {}, text.split("/").slice(-2).join("/"))));
  const { policy, reference, beta, kept } = app.about;
  find("models").replaceChildren(fact("policy", policy), fact("reference", reference), fact("β", String(beta)));
  find("kept").textContent = kept ? `Sessions are kept in ${kept}.` : "Sessions are kept until the server ends; --sessions FILE keeps them for good.";
}

async function startPage() {
  listenToTree();
  find("sessions-box").open = window.innerWidth > 960; // on a small screen the list would push the text away
  app.about = await tried(() => got("/app/about"));
  if (!app.about) {
    find("main").removeAttribute("aria-busy");
    await back();
    return location.reload();
  }
  CHANNELS.splice(0, CHANNELS.length, ...app.about.index.channels);
  index.levels = app.about.index.levels;
  aboutModels();
  fillControls();
  fillMethods();
  measureBar();
  await loadSessions();
  await recall();
  listen();
  find("main").removeAttribute("aria-busy");
}
