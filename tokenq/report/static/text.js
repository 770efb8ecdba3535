// The responses: tokens in reading order, what is shared, where a pair parts, and the cursor that walks through them.

const SPECIAL = /^(<\|.+\|>|<\/?s>|<(bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[\/?(INST|CLS|SEP|PAD)\])$/;

/** Return a response on screen. */
function openView(trace, side) {
  const view = { trace, side, nodes: [], values: [], units: [], unitOf: [] };
  const shared = state.pair ? state.pair.shared : 0;
  view.text = make("div", { class: "text", dir: "auto", role: "listbox", "aria-label": `tokens of ${trace.id}` });
  for (let i = 0; i < trace.count; i += 1) view.nodes.push(tokenNode(view, i, shared));
  if (view.nodes.length) view.nodes[0].tabIndex = 0;
  view.text.append(...view.nodes);
  view.text.addEventListener("mouseover", (event) => pointed(view, event, hover));
  view.text.addEventListener("click", (event) => pointed(view, event, pin));
  view.node = make("article", { class: "response", "aria-label": trace.id }, heading(trace), view.text);
  return view;
}

function heading(trace) {
  const { totals } = trace;
  const label = trace.label === null ? "" : trace.label ? "labelled desirable" : "labelled undesirable";
  const facts = [
    ...(isRead(trace) ? [`implicit reward ${written(totals.implicit_reward)}`] : []),
    ...(isRewarded(trace) ? rewardsOf(trace, totals.reward, totals.outputs).map(([name, number]) => `${name} ${written(number)}`) : []),
    ...(isRead(trace) ? [`log π ${written(totals.logp, false)}`, `log π_ref ${written(totals.ref_logp, false)}`] : []),
    ...Object.entries(trace.spans).filter(([level]) => level.startsWith("segment ")).map(([level, spans]) => `${level} ${written(spans.sum.reduce((all, one) => all + one, 0))}`),
    `${totals.tokens} tokens`,
    trace.terminal ? "" : "cut, no EOS",
    label,
    trace.score === null ? "" : `score ${trace.score}`,
  ];
  const spans = facts.filter(Boolean).map((fact) => make("span", { class: "quiet" }, fact));
  return make("header", {}, make("h2", {}, trace.side || trace.id), ...spans);
}

function tokenNode(view, token, shared) {
  const { trace } = view;
  const text = trace.tokens.text[token];
  const names = ["token"];
  if (!trace.tokens.written[token]) names.push("context");
  if (state.pair && token < shared) names.push("shared");
  if (state.pair && token === shared) names.push("parting");
  if (/^[ \u00a0]+$/.test(text)) names.push("blank");
  if (SPECIAL.test(text.trim())) names.push("special");
  if (labelledWrong(trace, token)) names.push("wrong");
  const node = make("span", { class: names.join(" "), role: "option", tabindex: "-1", "data-token": token });
  if (!text) node.append(make("span", { class: "glyph boxed", "data-glyph": pieceName(trace, token) }));
  for (const part of text.split(SPLIT)) {
    const sign = glyph(part);
    if (sign) node.append(make("span", { class: sign.length > 1 ? "glyph boxed" : "glyph", "data-glyph": sign }, part));
    else if (part) node.append(part);
  }
  return node;
}

/** Whether a stretch that the data labels as wrong holds a token. */
const labelledWrong = (trace, token) =>
  Object.values(trace.spans).some(({ first, last, label }) =>
    first.some((start, place) => label[place] === false && start <= token && token < last[place]),
  );

function pointed(view, event, act) {
  const node = event.target.closest(".token");
  if (node) act(view, Number(node.dataset.token));
}

function hover(view, token) {
  if (!state.pinned) select(view, token);
}

/** Hold a token, so that the pointer may leave it; let go of it when it is held already. */
function pin(view, token) {
  const again = state.pinned && state.cursor && state.cursor.view === view && state.cursor.token === token;
  state.pinned = !again;
  select(view, token, { focus: true });
  remember();
}

/** Put the cursor on a token, and show it everywhere. */
function select(view, token, how = {}) {
  unmark();
  state.cursor = { view, token };
  const node = view.nodes[token];
  const unit = view.units[view.unitOf[token]];
  if (unit && state.level !== "token") for (let i = unit.first; i < unit.last; i += 1) view.nodes[i].classList.add("in-unit");
  node.classList.add("current");
  node.classList.toggle("pinned", state.pinned);
  node.setAttribute("aria-selected", "true");
  for (const other of view.text.querySelectorAll('.token[tabindex="0"]')) other.tabIndex = -1;
  node.tabIndex = 0;
  if (how.scroll) reveal(view, node);
  if (how.focus) node.focus({ preventScroll: true });
  inspect();
  moveCurveCursor();
  markTableRow();
}

/** Bring a token into sight: within its text, and the text within the window. */
function reveal(view, node) {
  const [box, at] = [view.text.getBoundingClientRect(), node.getBoundingClientRect()];
  if (at.top < box.top || at.bottom > box.bottom) view.text.scrollTop += at.top - box.top - box.height / 2;
  const now = node.getBoundingClientRect();
  if (now.top < find("controls").offsetHeight || now.bottom > window.innerHeight) node.scrollIntoView({ block: "center" });
}

function unmark() {
  for (const node of document.querySelectorAll(".token.current, .token.in-unit")) {
    node.classList.remove("current", "in-unit", "pinned");
    node.removeAttribute("aria-selected");
  }
}

/** Walk by tokens. */
function step(by) {
  const { view, token } = state.cursor || { view: state.views[0], token: -1 };
  const next = Math.min(view.trace.count - 1, Math.max(0, token + by));
  if (view.trace.count) select(view, next, { scroll: true, focus: true });
}

/** Go to the other response of a pair, at the same place. */
function changeSide() {
  if (state.views.length < 2 || !state.cursor) return;
  const view = state.views[1 - state.views.indexOf(state.cursor.view)];
  if (view.trace.count) select(view, Math.min(state.cursor.token, view.trace.count - 1), { scroll: true, focus: true });
}

/** Go down the list of what is most negative (or most surprising), or back up. */
function jump(by) {
  if (!state.order.length) {
    say(`No ${state.level} is below 0 here.`);
    return;
  }
  state.place = Math.min(state.order.length - 1, Math.max(0, state.place + by));
  const { view, unit } = state.order[state.place];
  state.pinned = true;
  select(view, unit.first, { scroll: true });
  const what = state.channel.factor > 0 ? "most negative" : "most surprising";
  const text = state.level === "token" ? pieceName(view.trace, unit.first) : visible(pieces(view.trace, unit.first, unit.last));
  const where = view.trace.side ? ` (${view.trace.side})` : "";
  const shown = text.length > 80 ? `${text.slice(0, 80)}…` : text;
  say(`${ordinal(state.place + 1)} ${what} of ${state.order.length}: “${shown}” ${valued(unit.value)}${where}`);
  remember();
}

const say = (text) => {
  find("status").textContent = text;
};
