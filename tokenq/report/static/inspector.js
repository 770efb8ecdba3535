// The panel beside the text: every number of a token, the stretches it lies in, and what could have stood there.

const LISTS = { likely: "policy's", ref_likely: "reference's", favoured: "favoured" };
const LIST_NOTES = {
  likely: "The tokens that the policy finds most likely here.",
  ref_likely: "The tokens that the reference finds most likely here.",
  favoured: "Of both lists, the tokens that training raised most: the highest implicit reward.",
};

const cell = (text, name = "number") => make("td", { class: name }, text);
const row = (name, ...cells) => make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((text) => cell(text)));

/** Show the token under the cursor, or what to do when there is none. */
function inspect() {
  const panel = find("inspector");
  if (!state.cursor) {
    const hint = "Point at a token, or walk with the arrow keys. A click pins it.";
    panel.replaceChildren(make("p", { class: "quiet" }, hint));
    return;
  }
  const { view, token } = state.cursor;
  const { trace } = view;
  const columns = trace.tokens;
  const place = `token ${token + 1} of ${trace.count}, id ${columns.id[token]}, characters ${columns.start[token]}–${columns.end[token]}`;
  const side = trace.side ? `${trace.side}, ` : "";
  const parts = [
    make("div", {}, make("span", { class: "name" }, pieceName(trace, token)), state.pinned ? " pinned (Esc unpins)" : ""),
    make("div", { class: "quiet" }, side + place),
  ];
  if (state.pair && token < state.pair.shared) parts.push(make("div", { class: "quiet" }, `Both responses have it${isRead(trace) ? ": it cancels in the margin" : ""}.`));
  const own = columns.written[token];
  if (own && isRead(trace)) parts.push(twoModels(columns, token), credit(columns, token));
  if (own && isRewarded(trace)) parts.push(judged(trace, token));
  if (!own) parts.push(make("p", {}, "The policy did not write this token: it is context and has no numbers."));
  const stretches = stretchesOf(trace, token);
  if (stretches) parts.push(stretches);
  if (own) parts.push(...choices(trace, token));
  panel.replaceChildren(...parts);
}

function twoModels(columns, token) {
  const names = ["", "policy", "reference"].map((name) => make("th", { scope: "col", class: "number" }, name));
  return make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...names)),
    make(
      "tbody",
      {},
      row("log-prob", written(columns.logp[token], false), written(columns.ref_logp[token], false)),
      row("probability", percent(columns.logp[token]), percent(columns.ref_logp[token])),
      row("rank (0 = first)", whole(columns.rank[token]), whole(columns.ref_rank[token])),
      row("entropy", written(columns.entropy[token], false), written(columns.ref_entropy[token], false)),
    ),
  );
}

function credit(columns, token) {
  const names = {
    implicit_reward: "implicit reward",
    prefix_value: "prefix value",
    centred_advantage: "centred advantage",
    advantage: "advantage β log π",
    kl: "KL(π‖π_ref) here",
  };
  const rows = Object.entries(names).map(([name, label]) => row(label, written(columns[name][token], name !== "kl")));
  return make("table", {}, make("tbody", {}, ...rows));
}

/** Return what a reward model says of the response up to a token, and what the token has added to that. */
function judged(trace, token) {
  const { reward, outputs } = trace.tokens;
  const before = reward.slice(0, token).findLast((value) => value !== null);
  const rows = rewardsOf(trace, reward[token], outputs[token]).map(([name, number]) => row(`${name} up to here`, written(number)));
  if (before !== undefined) rows.push(row("reward added here", written(reward[token] - before)));
  return make("table", { "aria-label": "Reward model" }, make("tbody", {}, ...rows));
}

/** Return the stretches that a token lies in: what they add up to, and the reward at their end (the panel is narrow). */
function stretchesOf(trace, token) {
  const shown = isRewarded(trace) ? ["reward"] : ["mean"];
  if (isRead(trace)) shown.unshift("sum");
  const rows = Object.entries(trace.spans).flatMap(([level, spans]) =>
    spans.first.flatMap((first, place) =>
      first <= token && token < spans.last[place]
        ? [row(level + mark(spans.label[place]), ...shown.map((name) => written(spans[name][place])), String(spans.tokens[place]))]
        : [],
    ),
  );
  if (!rows.length) return null;
  const names = ["in its", ...shown, "tokens"].map((name, i) => make("th", { scope: "col", class: i ? "number" : "" }, name));
  return make("table", { "aria-label": "Stretches" }, make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...rows));
}

const mark = (label) => (label === null ? "" : label ? " (labelled right)" : " (labelled wrong)");

state.choices = alternativesTable; // the app draws another one, from which a token can be taken

/** Return the alternatives: tabs for the three lists, and the list that is chosen, with the token itself in it. */
function choices(trace, token) {
  if (!trace.alternatives.count[token]) return [];
  const tabs = Object.entries(LISTS).map(([list, name]) =>
    make(
      "button",
      { type: "button", role: "tab", "aria-selected": String(state.tab === list), title: LIST_NOTES[list], onclick: () => chooseTab(list), "data-list": list },
      name,
    ),
  );
  return [make("div", { class: "tabs", role: "tablist", "aria-label": "Alternatives" }, ...tabs), state.choices(trace, token, state.tab)];
}

function chooseTab(list) {
  state.tab = list;
  inspect();
  find("inspector").querySelector(`[data-list="${list}"]`).focus();
}

function alternativesTable(trace, token, list) {
  const columns = trace.tokens;
  const found = alternatives(trace, token, list);
  const names = ["token", "policy", "reference", "implicit reward"];
  const rows = found.map((one) => alternativeRow(visible(one.text), one.logp, one.refLogp, one.reward, one.id === columns.id[token]));
  if (!found.some((one) => one.id === columns.id[token])) {
    const own = [columns.logp[token], columns.ref_logp[token], columns.implicit_reward[token]];
    rows.push(alternativeRow(pieceName(trace, token), ...own, true));
  }
  const heads = names.map((name, i) => make("th", { scope: "col", class: i ? "number" : "" }, name));
  const label = `${LIST_NOTES[list]} The token that was taken is marked.`;
  return make("table", { "aria-label": label, class: "choices" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}

function alternativeRow(text, logp, refLogp, reward, taken) {
  const name = make("td", { class: "piece" }, text, taken ? make("span", { class: "quiet", title: "the token that was taken" }, " ←") : "");
  const node = make("tr", taken ? { class: "chosen-row" } : {}, name, cell(percent(logp)), cell(percent(refLogp)), cell(written(reward)));
  node.title = `log π ${written(logp, false)}, log π_ref ${written(refLogp, false)}`;
  return node;
}
