// Writing: one response or several, from the start or on behind a token; what is kept when the server goes away.

/** Return what the fields say of how is written; nothing where one of them cannot be meant. */
function writingSettings() {
  const fields = ["temperature", "top_p", "max_new_tokens", "seed"].map(find);
  const odd = fields.find((field) => !field.checkValidity());
  if (odd) {
    find("settings").open = true;
    odd.reportValidity();
    return null;
  }
  const number = (id) => (find(id).value === "" ? null : Number(find(id).value));
  return Object.fromEntries(["temperature", "top_p", "max_new_tokens", "seed"].map((id) => [id, number(id)]));
}

/** Return from where something is written: behind the token that is held, or else at the start. */
function beginning() {
  const branch = shownBranch();
  if (!branch || !state.pinned || !state.cursor) return { parent: null, at: 0 };
  return { parent: branch.id, at: state.cursor.token + 1 };
}

const nextName = (word) => {
  const used = new Set(app.session.branches.map(({ name }) => name));
  let number = app.session.branches.length + 1;
  while (used.has(`${word} ${number}`)) number += 1;
  return number;
};

/** Have responses written: { parent, at, token, names, undo } says where, by which first token, and what they are called. */
async function write({ parent = null, at = 0, token = null, names = null, count = 1, undo: label = "wrote" } = {}) {
  if (app.run) return say("Something is being written already: s stops it.");
  const settings = writingSettings();
  if (!settings || !(await tried(readySession))) return;
  const first = nextName("answer");
  const called = names ?? Array.from({ length: count }, (_, place) => `answer ${first + place}`);
  const trace = parent ? (await tried(() => reading(parent)))?.traces[0] : null;
  if (parent && !trace) return;
  const branches = called.map(fresh);
  app.drafts = called.map((name, choice) => newDraft(branches[choice], name, choice, parent, at, trace));
  if (token !== null) for (const draft of app.drafts) joined(draft, takenToken(trace, at, token));
  const before = [app.open, app.beside];
  if (count > 1) find("order").value = "reward";
  running("write");
  showDraft(app.drafts[0]);
  say(count > 1 ? `${count} answers are being written.` : "The policy writes.");
  const body = { run: app.run.id, parent, at, token, branches, names: called, ...settings };
  const kept = [];
  try {
    await streamed(ofSession("/write"), body, {
      token: (one) => (joined(app.drafts[one.choice], one), drawSoon()),
      branch: ({ branch }) => kept.push(came(branch)),
      error: ({ message }) => notice(message),
    });
    if (kept.length) undoable(`${label} ${kept.map(({ name }) => name).join(", ")}`, () => unwritten(kept, before));
  } catch (problem) {
    lost(problem);
  } finally {
    stopped();
  }
  if (app.drafts.length) return drawBranches();
  const best = kept.toSorted((a, b) => b.total - a.total)[0];
  if (best) await showBranches(best.id, null, { token: at });
  if (kept.length > 1) say(`Of ${kept.length} answers ${best.name} has the highest implicit reward, ${written(best.total)}.`);
  else if (best) say(`Written: ${best.ids.length} tokens, implicit reward ${written(best.total)}.`);
  else await showBranches(...before);
}

/** Return what is known of a token that is put in another one's place. */
function takenToken(trace, at, id) {
  const lists = ["likely", "ref_likely", "favoured"].flatMap((list) => alternatives(trace, at, list));
  const one = lists.find((other) => other.id === id) ?? { text: "", logp: null, refLogp: null, reward: null };
  const first = trace.offsets[at];
  const top = Array.from({ length: trace.alternatives.count[at] }, (_, place) => {
    const word = trace.alternatives.word[first + place];
    const [logp, ref] = [trace.alternatives.logp[first + place], trace.alternatives.ref_logp[first + place]];
    return [index.vocabulary.id[word], index.vocabulary.text[word], logp, ref, index.vocabulary.bytes[word]];
  });
  return { id, text: one.text, logp: one.logp, ref_logp: one.refLogp, reward: one.reward, top };
}

/** Take a branch that the server has written, read and saved. */
function came(branch) {
  app.drafts = app.drafts.filter(({ id }) => id !== branch.id);
  if (!branchOf(branch.id)) app.session.branches.push(branch);
  told(app.session.id);
  drawSessions();
  return branch;
}

/** Take back what was written. */
async function unwritten(branches, before) {
  for (const { id } of branches) took(await sent("PATCH", ofSession(`/branches/${id}`), { deleted: true }));
  await showBranches(...before);
}

/** Keep what is in the window when the server has gone, and save it when it is back. */
function lost(problem) {
  if (!(problem instanceof Gone || problem instanceof Refused)) throw problem;
  for (const draft of app.drafts) Object.assign(draft, { over: true, failed: true });
  const count = app.drafts.reduce((sum, draft) => sum + draft.trace.count, 0);
  if (problem instanceof Refused || !count) {
    app.drafts = [];
    notice(problem.message);
    if (problem instanceof Refused) app.shown = null;
    else back().then(() => notice("The server is back."));
    return;
  }
  notice(`${problem.message} What was written is kept in this window (${count} tokens), and saved as soon as the server is back.`);
  back().then(savedLater);
}

/** Save what a server had not, and offer to write on. */
async function savedLater() {
  const drafts = app.drafts.filter(({ failed }) => failed);
  const saved = await tried(async () => {
    await readySession(true);
    const branches = [];
    for (const draft of drafts) {
      if (writtenIds(draft).length) {
        const body = { id: draft.id, name: draft.name, ids: writtenIds(draft), parent: draft.parent, at: draft.at, origin: "written" };
        branches.push(came(await sent("POST", ofSession("/branches"), body)));
      }
      app.drafts = app.drafts.filter((one) => one !== draft);
    }
    return branches;
  });
  if (!saved?.length) return;
  const [branch] = saved;
  await showBranches(branch.id, null);
  const onwards = { parent: branch.id, at: branch.ids.length, names: [`${branch.name}, on`] };
  notice(`The server is back, and ${saved.map(({ name }) => name).join(", ")} is saved.`, branch.terminal ? null : { label: "Go on writing", act: () => write(onwards) });
}

/** Read the response that was pasted. */
async function readResponse() {
  const text = find("response-box").value;
  if (!text) return write();
  if (app.run) return say("Something is being written already: s stops it.");
  await tried(async () => {
    await readySession();
    say("Both models read the response.");
    const body = { id: fresh(), name: `pasted ${nextName("pasted")}`, text, origin: "pasted" };
    const before = [app.open, app.beside];
    const branch = came(await sent("POST", ofSession("/branches"), body));
    undoable(`read ${branch.name}`, () => unwritten([branch], before));
    find("response-box").value = "";
    await showBranches(branch.id, null);
    say(`Read: ${branch.ids.length} tokens, implicit reward ${written(branch.total)}.`);
  });
}

function running(kind) {
  app.run = { id: fresh(), kind };
  find("stop").disabled = kind !== "write";
  find("search-stop").disabled = kind !== "search";
  for (const id of ["write", "many", "read", "search-start"]) find(id).disabled = true;
}

function stopped() {
  app.run = null;
  for (const id of ["stop", "search-stop"]) find(id).disabled = true;
  for (const id of ["write", "many", "read", "search-start"]) find(id).disabled = false;
}

const stop = () => (app.run ? tried(() => sent("POST", `/app/stop/${app.run.id}`)) : say("Nothing runs."));

const several = () => {
  if (!find("several").checkValidity()) return find("several").reportValidity();
  return write({ ...beginning(), count: Number(find("several").value) });
};
