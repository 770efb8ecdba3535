// From numbers to colours: values of tokens and stretches, one scale for all that is shown, depth of a colour.

/** What the underline may stand for; all of it 0 and up. */
const UNDERLINES = {
  kl: { label: "KL(π‖π_ref)", unit: " nats", value: (columns, i) => columns.kl[i] },
  entropy: { label: "entropy of the policy", unit: " nats", value: (columns, i) => columns.entropy[i] },
  ref_entropy: { label: "entropy of the reference", unit: " nats", value: (columns, i) => columns.ref_entropy[i] },
  rank: { label: "rank under the policy", unit: " (drawn by its logarithm)", value: (columns, i) => columns.rank[i], log: true },
  ref_rank: { label: "rank under the reference", unit: " (drawn by its logarithm)", value: (columns, i) => columns.ref_rank[i], log: true },
  policy_surprisal: { label: "policy surprisal", unit: " nats", value: (columns, i) => minus(columns.logp[i]) },
  reference_surprisal: { label: "reference surprisal", unit: " nats", value: (columns, i) => minus(columns.ref_logp[i]) },
  size: { label: "size of the implicit reward", unit: " nats", value: (columns, i) => Math.abs(columns.implicit_reward[i]) },
};

const minus = (value) => (value === null ? null : -value);

/** Return a value of the channel for people: signs where it has two. */
const valued = (value) => written(value, state.channel.factor > 0);

/** Return the channel's value of every token, null where the policy did not write it. */
function channelValues(trace, channel) {
  const { outputs, [channel.column]: column } = trace.tokens;
  const values = channel.output === null ? column : outputs.map((all) => all[channel.output] ?? null);
  return values.map((value) => (value === null ? null : channel.factor * value));
}

/** Return what is coloured as one: tokens, or the stretches of a level. `place` is a token's or a span's number. */
function unitsOf(trace, channel, values) {
  if (state.level === "token") {
    return values.flatMap((value, i) => (value === null ? [] : [{ first: i, last: i + 1, place: i, value }]));
  }
  const spans = trace.spans[state.level];
  if (!spans) return [];
  return spans.first.map((first, place) => {
    const last = spans.last[place];
    return { first, last, place, value: ofStretch(spans, place, channel, values.slice(first, last)) };
  });
}

function ofStretch(spans, place, channel, values) {
  const name = { sum: "sum", mean: "mean", worst: "min" }[state.aggregate];
  if (channel.name === "implicit_reward") return spans.tokens[place] ? spans[name][place] : null;
  const numbers = values.filter((value) => value !== null);
  if (!numbers.length) return null;
  if (channel.so_far) return numbers[numbers.length - 1];
  if (state.aggregate === "worst") return channel.factor * numbers.reduce((a, b) => Math.min(a, channel.factor * b), Infinity);
  const sum = numbers.reduce((a, b) => a + b, 0);
  return state.aggregate === "mean" ? sum / numbers.length : sum;
}

/** Return the value at which colours are deepest. */
function extentOf(sizes) {
  const sorted = sizes.filter((size) => size !== null).sort((a, b) => a - b);
  if (!sorted.length) return 1;
  const at = state.scale === "robust" ? Math.ceil(0.98 * sorted.length) - 1 : sorted.length - 1;
  return sorted[at] || sorted[sorted.length - 1] || 1;
}

/** Return the depth of a colour, 0 … 1, for a share of the extent. */
const depth = (share) => Math.min(1, Math.abs(share)) ** (2 ** (-1.3 * state.intensity));

/** Work out values, stretches and scale of all that is shown, and colour it. */
function paint() {
  const { channel } = state;
  for (const view of state.views) {
    view.values = channelValues(view.trace, channel);
    view.units = unitsOf(view.trace, channel, view.values);
    view.unitOf = new Int32Array(view.trace.count).fill(-1);
    view.units.forEach((unit, number) => view.unitOf.fill(number, unit.first, unit.last));
  }
  state.extent = extentOf(state.views.flatMap((view) => view.units.map((unit) => (unit.value === null ? null : Math.abs(unit.value)))));
  const under = UNDERLINES[state.underline];
  const drawnUnder = (columns, i) => {
    const value = columns.logp[i] === null ? null : under.value(columns, i);
    return value !== null && under.log ? Math.log1p(value) : value;
  };
  const unders = state.views.map((view) =>
    under ? Array.from({ length: view.trace.count }, (_, i) => drawnUnder(view.trace.tokens, i)) : null,
  );
  state.underExtent = under ? extentOf(unders.flat()) : 1;
  state.views.forEach((view, number) => view.nodes.forEach((node, i) => paintToken(view, i, node, unders[number])));
  order();
  caption();
}

function paintToken(view, token, node, under) {
  const unit = view.values[token] === null ? null : view.units[view.unitOf[token]];
  const share = unit && unit.value !== null ? (state.channel.factor * unit.value) / state.extent : 0;
  node.classList.toggle("positive", share > 0);
  node.classList.toggle("negative", share < 0);
  node.style.setProperty("--share", depth(share).toFixed(3));
  const underShare = under && under[token] !== null ? Math.min(1, under[token] / state.underExtent) : 0;
  node.style.setProperty("--under-share", underShare.toFixed(3));
  const own = view.trace.tokens.written[token];
  const said = own ? `${state.channel.label} ${valued(view.values[token])}` : "not written by the policy";
  node.setAttribute("aria-label", `${pieceName(view.trace, token)}, ${said}`);
}

/** Line up what is below 0 (or surprising), the strongest first; what a pair shares counts once. */
function order() {
  const { factor } = state.channel;
  state.order = state.views.flatMap((view) =>
    view.units
      .filter((unit) => unit.value !== null && factor * unit.value < 0)
      .filter((unit) => !(state.pair && view.side === 1 && unit.last <= state.pair.shared))
      .map((unit) => ({ view, unit })),
  );
  state.order.sort((a, b) => factor * (a.unit.value - b.unit.value));
  state.place = -1;
  const surprising = factor < 0;
  find("next").textContent = surprising ? "next most surprising ›" : "next most negative ›";
}

/** Say what the colour is, and draw its scale. */
function caption() {
  const { channel, extent } = state;
  const level = state.level === "token" ? "" : channel.so_far ? "At the end" : { sum: "Sum", mean: "Mean a token", worst: "Worst token" }[state.aggregate];
  const stretch = level ? `${level} ${channel.so_far ? "of" : "over"} each ${state.level}. ` : "";
  find("caption").replaceChildren(make("b", {}, channel.label), ` = ${channel.formula}. ${stretch}${channel.note}`);
  const cells = make("span", { class: "cells", "aria-hidden": "true" });
  const steps = channel.factor > 0 ? 10 : 0;
  for (let step = -10; step <= steps; step += 1) cells.append(sample(channel.factor > 0 ? step / 10 : -(step + 10) / 10));
  const ends = channel.factor > 0 ? [written(-extent), written(extent)] : ["0", written(extent, false)];
  const beyond = state.scale === "robust" ? "; what lies beyond is drawn like the ends" : "";
  const legend = [ends[0], cells, ends[1], `${channel.so_far ? "" : "nats, "}0 has no colour${beyond}`];
  const under = UNDERLINES[state.underline];
  if (under) {
    const most = under.log ? Math.expm1(state.underExtent).toFixed(0) : written(state.underExtent, false);
    legend.push(make("span", { class: "sample", "aria-hidden": "true" }), `${under.label}, thickest at ${most}${under.unit}`);
  }
  find("legend").replaceChildren(...legend.map((part) => (typeof part === "string" ? make("span", {}, part) : part)));
}

function sample(share) {
  const node = make("span", { class: `token ${share > 0 ? "positive" : "negative"}` });
  node.style.setProperty("--share", depth(share).toFixed(3));
  return node;
}
