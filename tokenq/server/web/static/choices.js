// What could have stood at a token, by both models, and the button that takes it: another branch is written from there.

/** Return a list of alternatives that can be taken; see alternativesTable for the one of a page that is closed. */
function choicesTable(trace, token, list) {
  const columns = trace.tokens;
  const found = alternatives(trace, token, list);
  const taken = columns.id[token];
  if (!found.some((one) => one.id === taken)) {
    found.push({ id: taken, text: columns.text[token], logp: columns.logp[token], refLogp: columns.ref_logp[token], reward: columns.implicit_reward[token] });
  }
  const ranks = new Map(alternatives(trace, token, "likely").map(({ id }, place) => [id, place]));
  const heads = ["token", "log π", "log π_ref", "reward", "rank"].map((name, i) => make("th", { scope: "col", class: i ? "number" : "" }, name));
  const rows = found.map((one) => choiceRow(trace, token, one, one.id === taken ? columns.rank[token] : ranks.get(one.id)));
  const label = `${LIST_NOTES[list]} The token that was taken is marked. Enter takes another one and writes on from there.`;
  const table = make("table", { class: "choices takeable", "aria-label": label }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  table.addEventListener("keydown", walkChoices);
  return table;
}

function choiceRow(trace, token, one, rank) {
  const taken = one.id === trace.tokens.id[token];
  const name = taken ? pieceName(trace, token) : visible(one.text) || `#${one.id}`;
  const bytes = index.vocabulary.bytes[wordOf(one.id, one.text, "")] || "";
  const spaced = bytes.replace(/../g, "$& ").trim();
  const said = `id ${one.id}${spaced ? `, bytes ${spaced}` : ""}, π ${percent(one.logp)}, π_ref ${one.refLogp === null ? "–" : percent(one.refLogp)}`;
  const take = make("button", { type: "button", title: said, disabled: taken || Boolean(app.run), onclick: () => takeToken(token, one.id, name) }, name);
  const cells = [written(one.logp, false), written(one.refLogp, false), written(one.reward), rank === undefined ? "–" : whole(rank)];
  const first = make("td", { class: "piece" }, take, taken ? make("span", { class: "quiet", title: "the token that was taken" }, " ←") : "");
  const more = make("td", { class: "quiet said", colspan: "5" }, said);
  const node = make("tr", { class: taken ? "chosen-row" : null }, first, ...cells.map((text) => cell(text)));
  const both = document.createDocumentFragment();
  both.append(node, make("tr", { class: "said-row" }, more));
  return both;
}

function walkChoices(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button:not(:disabled)")];
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by || !buttons.length) return;
  event.preventDefault();
  event.stopPropagation();
  const at = buttons.indexOf(event.target);
  buttons[Math.min(buttons.length - 1, Math.max(0, at + by))].focus();
}

/** Go to the alternatives of the token under the cursor. */
function goToChoices() {
  if (!state.cursor) return say("Point at a token first: the arrow keys walk.");
  if (!state.pinned) pin(state.cursor.view, state.cursor.token);
  const first = find("inspector").querySelector(".takeable button:not(:disabled)");
  if (first) first.focus();
  else say("There are no alternatives at this token.");
}

/** Take another token where one stands, and have the policy write on from there. */
function takeToken(token, id, name) {
  const branch = shownBranch();
  if (!branch) return say("It is being written still. Stop it, or wait.");
  return write({ parent: branch.id, at: token, token: id, names: [`${name} at ${token + 1}`], undo: "took" });
}

/** Return the branch of the text under the cursor, null for one that is being written. */
function shownBranch() {
  const place = state.cursor ? state.views.indexOf(state.cursor.view) : 0;
  return app.shown ? null : branchOf(place ? app.beside : app.open);
}
