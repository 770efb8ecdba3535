// What was found for a prompt: candidates, their tokens, what they share with the best, and what their colours say.

const CANDIDATES = 10; // drawn at once

function drawCandidates() {
  const { candidates, best_first } = state.result;
  const order = candidates.length < 2 ? "" : best_first ? ", best first" : ", in the order in which they were drawn";
  find("found-title").textContent = `${counted(candidates.length)} candidate${candidates.length === 1 ? "" : "s"}${order}`;
  find("controls").hidden = find("caption").hidden = !candidates.length;
  find("grey-box").hidden = candidates.length < 2;
  find("candidates").replaceChildren(...(candidates.length ? [] : [make("p", {}, "The search ended before it had a candidate.")]));
  state.nodes = [];
  moreCandidates();
}

/** Draw the next candidates, and a button for what is left. */
function moreCandidates() {
  const { candidates } = state.result;
  const from = state.nodes.length;
  const upTo = Math.min(candidates.length, from + CANDIDATES);
  for (let number = from; number < upTo; number += 1) find("candidates").append(candidateCard(number));
  if (candidates.length > upTo) {
    const next = make("button", { type: "button", class: "more" }, moreOf(candidates.length - upTo, CANDIDATES));
    next.addEventListener("click", () => {
      next.remove();
      moreCandidates();
      find("candidates").children[from + CANDIDATES].focus();
    });
    find("candidates").append(next);
  }
  paint();
}

function candidateCard(number) {
  const { best, tree } = state.result;
  const candidate = state.result.candidates[number];
  const facts = [
    `${candidate.length} token${candidate.length === 1 ? "" : "s"}`,
    `Σ log π ${plain(candidate.total)}`,
    candidate.ref_logp ? `Σ log π_ref ${plain(candidate.ref_total)}` : "",
    number !== best && candidate.shared ? `${candidate.shared} shared with the best` : "",
  ];
  const title = make("h3", {}, `${number + 1}`, make("span", { class: "score" }, ` score ${plain(candidate.score)}`));
  const head = make("header", {}, title, ...facts.filter(Boolean).map((fact) => make("span", { class: "quiet" }, fact)));
  head.append(candidate.terminal ? make("span", { class: "quiet" }, "terminal") : badge("cut"));
  if (candidate.answer !== null) head.append(make("span", {}, "answer ", make("b", {}, make("bdi", {}, visible(candidate.answer)))));
  if (number === best && state.result.candidates.length > 1) head.append(make("span", { class: "badge best" }, "best"));
  if (tree && candidate.line !== null) {
    head.append(make("button", { type: "button", class: "in-tree", onclick: () => showInTree(candidate.line) }, "in the tree"));
  }
  const strip = tokenStrip(candidate, number);
  const card = make("article", { class: "response", tabindex: "-1", "aria-label": `candidate ${number + 1}` }, head);
  if (!candidate.running) card.append(wholeText(candidate, number));
  if (candidate.length) card.append(strip);
  return card;
}

/** Return the text of a candidate whose tokens have no texts; where it departs from the best is told by characters. */
function wholeText(candidate, number) {
  const rest = candidate.text.slice(candidate.head.length);
  const parts = number === state.result.best || !candidate.head
      ? [spelled(candidate.text)]
      : [make("span", { class: "common" }, spelled(candidate.head)), make("span", { class: rest ? "parting" : "" }, spelled(rest))];
  return make("div", { class: "text whole", dir: "auto" }, ...parts);
}

/** Return the tokens of a candidate: running text where their texts are known, else a strip of cells. */
function tokenStrip(candidate, number) {
  const nodes = candidate.id.map((id, token) => {
    const text = candidate.texts[token];
    const end = candidate.terminal && token === candidate.length - 1;
    const names = ["token"];
    if (number !== state.result.best && token < candidate.shared) names.push("common");
    if (number !== state.result.best && token === candidate.shared && token) names.push("parting");
    if (/^[ \u00a0]+$/.test(text)) names.push("blank");
    if (end) names.push("special");
    const node = make("span", { class: names.join(" "), role: "option", tabindex: "-1", "data-token": token });
    const said = numbersOf(candidate, token);
    node.title = said;
    node.setAttribute("aria-label", said);
    if (candidate.running && text && !end) node.append(spelled(text));
    else if (end || text) node.append(named(text, id, end));
    return node;
  });
  if (nodes.length) nodes[0].tabIndex = 0;
  state.nodes[number] = nodes;
  const name = candidate.running ? "text" : "text cells-strip";
  const strip = make("div", { class: name, dir: "auto", role: "listbox", "aria-label": `tokens of candidate ${number + 1}` }, ...nodes);
  for (const event of ["mouseover", "focusin"]) strip.addEventListener(event, ({ target }) => read(candidate, target.closest(".token")));
  strip.addEventListener("keydown", (event) => walkTokens(nodes, event));
  return strip;
}

function numbersOf(candidate, token) {
  const end = candidate.terminal && token === candidate.length - 1;
  const name = named(candidate.texts[token], candidate.id[token], end);
  const parts = [`token ${token + 1} ${name === `#${candidate.id[token]}` ? "" : `“${name}” `}id ${candidate.id[token]}`];
  parts.push(`log π ${plain(candidate.logp[token])} (${percent(candidate.logp[token])})`);
  if (candidate.ref_logp) {
    parts.push(`log π_ref ${plain(candidate.ref_logp[token])} (${percent(candidate.ref_logp[token])})`);
    parts.push(`difference ${written(candidate.log_ratio[token])}`);
  }
  return parts.join(", ");
}

function read(candidate, node) {
  if (node) find("reading").textContent = numbersOf(candidate, Number(node.dataset.token));
}

function walkTokens(nodes, event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  const from = nodes.indexOf(event.target);
  if (from < 0 || !Object.hasOwn(steps, event.key)) return;
  event.preventDefault();
  rove(nodes[from], nodes[Math.min(nodes.length - 1, Math.max(0, from + steps[event.key]))]);
}

/** Return the channel's values for the tokens of a candidate, null where it has none. */
function valuesOf(candidate) {
  const { column, factor } = state.channel;
  return candidate.id.map((_, token) => (candidate[column]?.[token] == null ? null : factor * candidate[column][token]));
}

/** Take the colour that is wished for, or else the policy's own, and say which there are. */
function chooseChannel() {
  const has = ({ column }) => state.result.candidates.some((candidate) => candidate[column]);
  state.channel = has(state.wish) ? state.wish : CHANNELS.find(has) || state.wish;
  CHANNELS.forEach((channel, number) => {
    find(`channel-${number}`).checked = channel === state.channel;
    find(`channel-${number}`).disabled = !has(channel);
  });
}

/** Colour all tokens on one scale: up to the 98th percentile of the prompt's candidates. */
function paint() {
  chooseChannel();
  const sizes = state.result.candidates.flatMap(valuesOf).filter((value) => value !== null).map(Math.abs).sort((a, b) => a - b);
  state.extent = sizes[Math.ceil(0.98 * sizes.length) - 1] || sizes[sizes.length - 1] || 1;
  state.nodes.forEach((nodes, number) => {
    const values = valuesOf(state.result.candidates[number]);
    nodes.forEach((node, token) => shade(node, (state.channel.factor * (values[token] ?? 0)) / state.extent));
  });
  find("candidates").classList.toggle("greyed", state.grey);
  const { channel, extent } = state;
  find("caption").replaceChildren(make("b", {}, channel.label), ` = ${channel.formula}. ${channel.note}`);
  const signed = channel.factor > 0;
  const samples = Array.from({ length: signed ? 21 : 11 }, (_, step) => shade(make("span", { class: "token" }), signed ? step / 10 - 1 : -step / 10));
  const cells = make("span", { class: "cells", "aria-hidden": "true" }, ...samples);
  const ends = [signed ? written(-extent) : "0", signed ? written(extent) : plain(extent)];
  const legend = [make("span", {}, ends[0]), cells, make("span", {}, `${ends[1]} nats and beyond`)];
  if (state.grey && state.result.candidates.length > 1) legend.push(make("span", { class: "parting" }, " departs from the best"));
  find("legend").replaceChildren(...legend);
}

function shade(node, share) {
  node.classList.toggle("positive", share > 0);
  node.classList.toggle("negative", share < 0);
  node.style.setProperty("--share", Math.min(1, Math.abs(share)).toFixed(3));
  return node;
}

function setChannel(number) {
  if (find(`channel-${number}`).disabled) return;
  state.wish = CHANNELS[number];
  paint();
  remember();
}

function setGrey(grey) {
  find("grey").checked = state.grey = grey;
  paint();
}
