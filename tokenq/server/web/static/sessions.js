// Saved sessions: the list, opening, naming and deleting one, and taking them away as files.

let saved = []; // what the list shows

async function loadSessions() {
  saved = (await tried(() => got("/app/sessions"))) ?? saved;
  drawSessions();
}

function drawSessions() {
  const wanted = find("filter").value.toLowerCase();
  const own = app.session && { ...app.session, branches: app.session.branches.length };
  const all = own ? saved.map((one) => (one.id === own.id ? { ...one, name: own.name, branches: own.branches } : one)) : saved;
  const shown = all.filter(({ name, prompt }) => `${name} ${prompt}`.toLowerCase().includes(wanted));
  lazily(find("sessions"), find("sessions"), shown, (one) => make("li", {}, sessionButton(one)));
  find("list-count").textContent = !all.length ? "None yet. What you write and read is saved here." : shown.length === all.length ? `${all.length} saved` : `${shown.length} of ${all.length}`;
  find("delete-session").disabled = !own;
  find("session-name").textContent = own ? own.name : "";
  for (const id of ["rename", "export-traces", "export-pairs"]) find(id).disabled = !own;
  document.title = own ? `${own.name} – tokenq` : "tokenq";
}

function sessionButton(one) {
  const current = String(one.id === app.session?.id);
  const date = new Date(1000 * one.changed).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" });
  return make(
    "button",
    { type: "button", "aria-current": current, "data-session": one.id, title: `${one.name}, changed ${date}`, onclick: () => openSession(one.id) },
    make("span", { class: "name" }, make("bdi", { class: "head" }, one.name)),
    make("span", { class: "number", title: "branches" }, String(one.branches)),
    make("span", { class: "preview", dir: "auto" }, visible(one.prompt.slice(0, 80))),
  );
}

/** Open a saved session, and one or two of its branches. */
async function openSession(id, open, beside) {
  if (app.run) return say("Something is being written: s stops it.");
  const session = await tried(() => got(`/app/sessions/${id}`));
  if (!session) return;
  Object.assign(app, { session, drafts: [], undo: [], shown: null, open: null, beside: null });
  find("prompt-box").value = session.prompt;
  find("response-box").value = "";
  notice(session.other_models ? "This session was read by other models, or at another β. It can be looked at; to write, begin a new one with its prompt." : "");
  const first = branchOf(open) ?? session.branches.at(-1);
  drawSessions();
  await showBranches(first?.id ?? null, branchOf(beside)?.id ?? null);
}

/** Begin again with nothing, or with the prompt of the session. */
function newSession() {
  if (app.run) return say("Something is being written: s stops it.");
  Object.assign(app, { session: null, open: null, beside: null, drafts: [], undo: [], shown: null });
  notice("");
  nothingShown();
  drawBranches();
  drawSessions();
  remember();
  find("prompt-box").focus();
  find("prompt-box").select();
}

/** Make sure that the server has the session to which something is added; a prompt that was changed is another one. */
async function readySession(again = false) {
  const prompt = find("prompt-box").value;
  if (app.session && (again || app.session.prompt === prompt)) {
    if (!again) return app.session;
    try {
      return took(await got(ofSession())), app.session;
    } catch (problem) {
      if (problem.status !== 404) throw problem;
    }
    return madeAgain();
  }
  if (app.session) Object.assign(app, { open: null, beside: null, undo: [] });
  const name = visible(prompt.trim().slice(0, 60)) || "no prompt";
  app.session = await sent("POST", "/app/sessions", { id: fresh(), name, prompt });
  told(app.session.id);
  await loadSessions();
  return app.session;
}

/** Make a session again that the server has lost (one that keeps nothing, and was started anew), with its branches. */
async function madeAgain() {
  const { id, name, prompt, branches } = app.session;
  took(await sent("POST", "/app/sessions", { id, name, prompt }));
  for (const one of branches) {
    const body = { id: one.id, name: one.name, origin: one.origin };
    await sent("POST", ofSession("/branches"), one.origin === "pasted" ? { ...body, text: one.text } : { ...body, ids: one.ids });
  }
  took(await got(ofSession()));
  return app.session;
}

async function renameSession() {
  if (!app.session) return;
  find("name-title").textContent = "Name of this session";
  const name = (await answered("name-dialog", "name-box", app.session.name))?.trim();
  const before = app.session.name;
  if (!name || name === before) return;
  await tried(async () => {
    took(await sent("PATCH", ofSession(), { name }));
    undoable("renamed the session", async () => took(await sent("PATCH", ofSession(), { name: before })));
    drawBranches();
    await loadSessions();
  });
}

async function deleteSession() {
  if (!app.session || app.run) return;
  find("sure-title").textContent = `Delete “${app.session.name}” with its ${app.session.branches.length} branches for good?`;
  if ((await answered("sure-dialog")) !== "given") return;
  await tried(async () => {
    await sent("DELETE", ofSession());
    told(app.session.id);
    newSession();
    find("prompt-box").value = "";
    await loadSessions();
    say("The session is deleted.");
  });
}

/** Take a file away. It is asked for by the page, since a link would come without the key. */
async function takeAway(path, name, none) {
  await tried(async () => {
    const text = await (await asked("GET", path)).text();
    if (text) download(name, "application/jsonl", text);
    else say(none);
  });
  find("exports").open = false;
}

const fileOfSession = (what) => `${app.session.name.replace(/[^\w.-]+/g, "_").slice(0, 60) || "session"}-${what}.jsonl`;
const exportTraces = () => takeAway(ofSession("/traces.jsonl"), fileOfSession("traces"), "This session has no branches yet.");
const exportPairs = () => takeAway(ofSession("/pairs.jsonl"), fileOfSession("pairs"), "No pairs yet: put two branches side by side (b) and say which is better (< or >).");
const exportAllPairs = () => takeAway("/app/pairs.jsonl", "pairs.jsonl", "No session has a pair yet.");
