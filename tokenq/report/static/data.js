// What the page holds, how it is opened, and how numbers and texts are written.
// Texts of models reach the document as text nodes and attributes only; nothing here is ever parsed as HTML.

const island = (id) => JSON.parse(document.getElementById(id).textContent);
const index = island("index");

/** Return what a packed island holds; the browser unpacks it. */
async function unpacked(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}
const CHANNELS = index.channels;

/** Whether a policy has read a response, and whether a reward model has. */
const isRead = (trace) => trace.totals.implicit_reward !== null;
const isRewarded = (trace) => trace.totals.reward !== null;

/** What the reader has chosen, and where they are. */
const state = {
  row: 0,
  views: [], // one a response: see openView in text.js
  pair: null,
  channel: CHANNELS[0],
  level: "token",
  aggregate: "sum",
  underline: "",
  scale: "max",
  intensity: 0,
  extent: 1,
  underExtent: 1,
  cursor: null, // { view, token }
  pinned: false,
  order: [], // stretches from the most negative on
  place: -1,
  tab: "likely",
  sort: "data",
  descending: false,
  filter: "",
  table: { column: "index", descending: false },
};

const opened = new Map();

/** Return a trace, unpacked at its first use: a page of thousands opens as fast as a page of one. */
async function openTrace(number) {
  if (!opened.has(number)) {
    if (opened.size > 40) opened.clear();
    const trace = await unpacked(`trace-${number}`);
    trace.count = trace.tokens.text.length;
    let offset = 0;
    trace.offsets = trace.alternatives.count.map((count) => (offset += count) - count);
    opened.set(number, trace);
  }
  return opened.get(number);
}

/** Return a list of alternatives at a token: "likely", "ref_likely" or "favoured". */
function alternatives(trace, token, list) {
  const found = trace.alternatives;
  const order =
    list === "likely"
      ? Array.from({ length: found.likely[token] }, (_, place) => place)
      : Array.from(found[list][token], (letter) => letter.codePointAt(0) - 48);
  return order.map((place) => {
    const at = trace.offsets[token] + place;
    const [logp, refLogp] = [found.logp[at], found.ref_logp[at]];
    const reward = logp === null || refLogp === null ? null : trace.beta * (logp - refLogp);
    const word = found.word[at];
    return { id: index.vocabulary.id[word], text: index.vocabulary.text[word], logp, refLogp, reward };
  });
}

/** Return what a reward model says at a token or of a whole response, as [name, number]: its reward, then its outputs. */
function rewardsOf(trace, reward, outputs) {
  const names = trace.reward_model === null ? [] : index.models[trace.reward_model].outputs;
  return [["reward", reward], ...outputs.map((output, i) => [names[i], output])];
}

/** Return an element. Children are nodes or strings; a string becomes text, whatever it holds. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Return the name of a row; where it is too long its middle goes, for its end is its number. */
function rowName(name) {
  const cut = name.search(/, row \d+[^,]*$/);
  const place = cut >= 0 ? cut : Math.max(0, name.length - 10);
  const parts = [make("span", { class: "head" }, name.slice(0, place)), make("span", { class: "tail" }, name.slice(place))];
  return make("span", { class: "name" }, ...parts.filter((part) => part.textContent));
}

/** Keep in --bar how high the controls stand at the top of the window, for what sticks below them. */
function measureBar() {
  const bar = find("controls");
  const told = () => document.documentElement.style.setProperty("--bar", `${bar.offsetHeight}px`);
  new ResizeObserver(told).observe(bar);
  told();
}

const find = (id) => document.getElementById(id);

/** Return a number for people: a true minus, a plus where signs matter, as many digits as help. */
function written(value, plus = true) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 || size === 0 ? 3 : 4;
  const text = size && size < 0.0001 ? size.toExponential(1) : size.toFixed(digits);
  return (value < 0 ? "−" : plus && value > 0 ? "+" : "") + text;
}

const counted = (number) => (number === null ? "–" : number.toLocaleString("en"));
const plain = (value) => written(value, false);
const moreOf = (left, step) => (left > step ? `Show ${step} more of ${counted(left)}` : `Show ${left} more`);
const named = (text, id, end) => visible(text || "") || (end ? "EOS" : `#${id}`);
const whole = (value) => (value === null || value === undefined ? "–" : String(value));

function percent(logp) {
  if (logp === null) return "–";
  const share = 100 * Math.exp(logp);
  return share >= 99.95 ? "100 %" : share >= 0.1 ? `${share.toFixed(1)} %` : share >= 0.001 ? `${share.toFixed(3)} %` : "≈ 0";
}

function ordinal(number) {
  const tens = number % 100;
  const ending = tens > 10 && tens < 14 ? "th" : ["th", "st", "nd", "rd"][number % 10] || "th";
  return number + ending;
}

// Characters without a look of their own. The joiners U+200C and U+200D shape what they stand in, and stay.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/;
const SPLIT = new RegExp(`(\\n|\\t|${UNSEEN.source})`);
const codePoint = (letter) => `U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** Return the sign for a character that cannot be seen, or null. */
function glyph(letter) {
  if (letter === "\n") return "↵";
  if (letter === "\t") return "⇥";
  return letter.length === 1 && UNSEEN.test(letter) ? codePoint(letter) : null;
}

/** Return a text on one line, with everything in it visible. */
function visible(text) {
  const shown = text.split(SPLIT).map((part) => glyph(part) || part);
  return shown.join("").replace(/^ +| +$/g, (blanks) => "␣".repeat(blanks.length));
}

/** Return what a token is called: its piece, EOS, or its number where it has no piece of the text. */
function pieceName(trace, token) {
  const text = trace.tokens.text[token];
  if (text) return visible(text);
  return isEnd(trace, token) ? "EOS" : `#${trace.tokens.id[token]}`;
}

const isEnd = (trace, token) => trace.terminal && token === trace.count - 1 && !trace.tokens.text[token];

const pieces = (trace, first, last) => trace.tokens.text.slice(first, last).join("");

/** Hand the focus, and the one place among many that the tab key reaches, to another element. */
function rove(from, to) {
  if (from) from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

/** Fill `parent` step by step as `scroller` is scrolled, so that thousands of rows cost what is seen of them. */
function lazily(scroller, parent, items, build, step = 120) {
  let shown = 0;
  const upTo = (count) => {
    const part = document.createDocumentFragment();
    for (; shown < Math.min(count, items.length); shown += 1) part.append(build(items[shown], shown));
    parent.append(part);
  };
  parent.replaceChildren();
  upTo(step);
  scroller.onscroll = () => {
    if (scroller.scrollTop + scroller.clientHeight > scroller.scrollHeight - 400) upTo(shown + step);
  };
  return upTo;
}
