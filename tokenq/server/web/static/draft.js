// Responses that are being written, in the form in which the page holds those that were read: tokens join them one by
// one. What only a whole reading knows (entropies, ranks, words) is missing until it comes.

const words = new Map(); // token id and text → its number in the vocabulary

/** Return the number of a word in the vocabulary of the page. */
function wordOf(id, text, bytes) {
  const name = `${id} ${text}`;
  if (!words.has(name)) {
    words.set(name, index.vocabulary.id.length);
    index.vocabulary.id.push(id);
    index.vocabulary.text.push(text);
    index.vocabulary.bytes.push(bytes);
  }
  return words.get(name);
}

const models = new Map();

function modelOf(identity) {
  const name = JSON.stringify(identity);
  if (!models.has(name)) models.set(name, index.models.push(identity) - 1);
  return models.get(name);
}

/** Return the traces of an answer of the server, their numbers of words and models those of the page. */
function adopted({ index: given, traces }) {
  const word = given.vocabulary.id.map((id, place) => wordOf(id, given.vocabulary.text[place], given.vocabulary.bytes[place]));
  const model = given.models.map(modelOf);
  for (const trace of traces) {
    trace.alternatives.word = trace.alternatives.word.map((place) => word[place]);
    for (const role of ["policy", "reference", "reward_model"]) if (trace[role] !== null) trace[role] = model[trace[role]];
    located(trace);
  }
  return traces;
}

/** Say where the alternatives of each token begin. */
function located(trace) {
  trace.count = trace.tokens.text.length;
  let offset = 0;
  trace.offsets = trace.alternatives.count.map((count) => (offset += count) - count);
}

/** Return a response that is about to be written behind some tokens of another one (null for none). */
function newDraft(id, name, choice, parent, at, trace) {
  const names = ["id", "text", "start", "end", "written", ...index.numbers, "outputs"];
  const size = trace ? (at < trace.count ? trace.offsets[at] : trace.alternatives.word.length) : 0;
  const begun = (column, upTo) => (trace ? column(trace).slice(0, upTo) : []);
  const tokens = Object.fromEntries(names.map((column) => [column, begun((one) => one.tokens[column], at)]));
  const own = (column, upTo) => [column, begun((one) => one.alternatives[column], upTo)];
  const alternatives = Object.fromEntries([
    ...["count", "likely", "ref_likely", "favoured"].map((column) => own(column, at)),
    ...["word", "logp", "ref_logp"].map((column) => own(column, size)),
  ]);
  const totals = { implicit_reward: 0, logp: 0, ref_logp: 0, tokens: 0, reward: null, outputs: [] };
  const draft = {
    ...{ id, name, choice, parent, at, painted: 0, over: false, failed: false },
    trace: { ...{ id: name, prompt: app.session.prompt, side: null, beta: app.about.beta, gauge: "normalised", terminal: false }, ...{ policy: 0, reference: 0, label: null, score: null, warnings: [], totals, tokens, reward_model: null, alternatives, spans: {} } },
  };
  located(draft.trace);
  summed(draft.trace, 0);
  return draft;
}

/** Add what tokens from one on say to the totals. */
function summed(trace, first) {
  const { totals, tokens } = trace;
  for (let i = first; i < trace.count; i += 1) {
    totals.implicit_reward += tokens.implicit_reward[i] ?? 0;
    totals.logp += tokens.logp[i] ?? 0;
    totals.ref_logp += tokens.ref_logp[i] ?? 0;
    totals.tokens += 1;
    tokens.prefix_value[i] = totals.implicit_reward;
  }
}

/** Add a token to a draft: top is [id, text, log π, log π_ref, bytes] of what could have stood there. */
function joined(draft, { id, text, logp = null, ref_logp = null, reward = null, top = [], finish = null }) {
  const { trace } = draft;
  const { tokens, alternatives: list } = trace;
  const start = tokens.end.at(-1) ?? 0;
  const numbers = { id, text, start, end: start + text.length, written: 1, logp, ref_logp, implicit_reward: reward, outputs: [] };
  for (const [name, column] of Object.entries(tokens)) column.push(numbers[name] ?? null);
  if (trace.totals.reward === null && logp !== null) tokens.advantage[trace.count] = trace.beta * logp;
  trace.offsets.push(list.word.length);
  list.count.push(top.length);
  list.likely.push(top.length);
  for (const [other, piece, own, ref, bytes] of top) {
    list.word.push(wordOf(other, piece, bytes));
    list.logp.push(own);
    list.ref_logp.push(ref);
  }
  const places = (value) => {
    const known = top.map((one, place) => [value(one), place]).filter(([number]) => number !== null);
    return String.fromCodePoint(...known.sort((a, b) => b[0] - a[0]).map(([, place]) => place + 48));
  };
  list.ref_likely.push(places(([, , , ref]) => ref));
  list.favoured.push(places(([, , own, ref]) => (ref === null ? null : own - ref)));
  trace.count += 1;
  trace.terminal = finish === "stop";
  summed(trace, trace.count - 1);
}

/** Return the tokens of a draft behind those of its parent. */
const writtenIds = (draft) => draft.trace.tokens.id.slice(draft.at);

function draftRow(draft) {
  const { totals } = draft.trace;
  const shown = state.views[0]?.trace === draft.trace;
  const label = draft.failed ? "not saved" : draft.over ? "being read" : "being written";
  const open = () => showDraft(draft);
  return make(
    "div",
    { class: "branch draft", role: "option", tabindex: "-1", "aria-selected": String(shown), "data-branch": draft.id, onclick: open },
    make("span", { class: "sign", "aria-hidden": "true" }, shown ? "▶" : ""),
    make("span", { class: "name" }, make("bdi", {}, draft.name)),
    make("span", { class: "marks" }, make("span", { class: "badge" }, label)),
    make("span", { class: "number" }, written(totals.implicit_reward)),
    make("span"),
    make("span", { class: "quiet preview", dir: "auto" }, visible(draft.trace.tokens.text.slice(-24).join(""))),
  );
}

/** Show a draft, where it was before the next token comes. */
function showDraft(draft) {
  Object.assign(state, { cursor: null, pinned: false, pair: null });
  app.beside = null;
  app.shown = draft;
  state.views = [openView(draft.trace, 0)];
  draft.painted = draft.trace.count;
  placed();
  drawBranches();
}

const drawing = { asked: false, cost: 0 };

/** Draw what has come since the last time, as often as drawing leaves time for anything else. */
function drawSoon() {
  if (drawing.asked) return;
  drawing.asked = true;
  setTimeout(() => requestAnimationFrame(drawNow), Math.min(500, 3 * drawing.cost));
}

function drawNow() {
  drawing.asked = false;
  const begin = performance.now();
  const draft = app.shown;
  const view = state.views[0];
  if (draft && view?.trace === draft.trace) {
    const part = document.createDocumentFragment();
    const low = view.text.scrollTop + view.text.clientHeight > view.text.scrollHeight - 40;
    for (; view.nodes.length < draft.trace.count; ) {
      const node = tokenNode(view, view.nodes.length, 0);
      view.nodes.push(node);
      part.append(node);
    }
    view.text.append(part);
    view.node.querySelector("header").replaceWith(heading(draft.trace));
    paint();
    drawCurve();
    if (low) view.text.scrollTop = view.text.scrollHeight;
    if (state.cursor) inspect();
  }
  drawBranches();
  drawing.cost = performance.now() - begin;
}
