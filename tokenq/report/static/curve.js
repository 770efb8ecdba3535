// The value curve: the running sum of implicit rewards, V*(s) − V*(s₁) when the only reward comes at the end; or what a
// reward model says of the response so far, where that is what is coloured.

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 52, right: 12, top: 10, bottom: 22 };
let curve = null; // { node, x, y, width } of what is drawn now

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Return the curve of a response: 0 before its first token (null for a reward model), then the value after each. */
function heights(trace) {
  const { channel } = state;
  const line = [channel.so_far ? null : 0];
  const values = channel.so_far ? channelValues(trace, channel) : trace.tokens.prefix_value;
  for (const value of values) line.push(value ?? line[line.length - 1]);
  return line;
}

/** Return the shapes of the curves for a width and a height, and the maps from tokens and values to places. */
function curveShapes(width, height) {
  const lines = state.views.map((view) => heights(view.trace));
  const most = Math.max(1, ...lines.map((line) => line.length - 1));
  const [low, high] = lines.flat().reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [0, 0]);
  const spread = high - low || 1;
  const x = (count) => EDGE.left + (count / most) * (width - EDGE.left - EDGE.right);
  const y = (value) => EDGE.top + ((high - value) / spread) * (height - EDGE.top - EDGE.bottom);
  const shapes = [...new Set([low, 0, high])].flatMap((value) => {
    const line = svg("line", { class: value === 0 ? "zero" : "axis", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) });
    const crowded = value !== 0 && Math.abs(y(value) - y(0)) < 14; // the label of 0 goes before
    return crowded ? [line] : [line, svg("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, written(value))];
  });
  shapes.push(svg("text", { x: EDGE.left, y: height - 5 }, "start"));
  shapes.push(svg("text", { x: width - EDGE.right, y: height - 5, "text-anchor": "end" }, `token ${most}`));
  if (state.pair) {
    const at = x(state.pair.shared);
    shapes.push(svg("line", { class: "parts", x1: at, x2: at, y1: EDGE.top, y2: height - EDGE.bottom }));
    const late = at > 0.7 * width; // the words then stand before the line; at the top nothing else is written
    shapes.push(svg("text", { x: late ? at - 4 : at + 4, y: EDGE.top + 9, "text-anchor": late ? "end" : "start" }, "they part"));
  }
  lines.forEach((line, number) => {
    const points = line.flatMap((value, count) => (value === null ? [] : [`${x(count).toFixed(1)},${y(value).toFixed(1)}`]));
    if (points.length) shapes.push(svg("path", { class: number ? "line second" : "line", d: `M${points.join("L")}` }));
  });
  return { shapes, x, y, lines, most };
}

function drawCurve() {
  const figure = find("curve");
  const width = Math.max(320, figure.clientWidth || 900);
  const height = 176;
  const drawn = curveShapes(width, height);
  const label = state.views.map(({ trace }, number) => `${trace.side || trace.id} ends at ${written(drawn.lines[number].at(-1))}`).join(", ");
  const name = state.channel.so_far ? `Curve of ${state.channel.label}` : "Value curve";
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: ${label}` });
  const cursor = svg("line", { class: "cursor", y1: EDGE.top, y2: height - EDGE.bottom, visibility: "hidden" });
  const dot = svg("circle", { class: "dot", r: 4, visibility: "hidden" });
  node.append(...drawn.shapes, cursor, dot);
  curve = { node, cursor, dot, width, height, ...drawn };
  node.addEventListener("pointermove", (event) => {
    if (!state.pinned) followCurve(event, {});
  });
  node.addEventListener("click", (event) => {
    state.pinned = true;
    followCurve(event, { scroll: true });
    remember();
  });
  const [solid, dashed] = state.views.map(({ trace }) => trace.side || trace.id);
  const which = dashed ? ` Solid: ${solid}; dashed: ${dashed}.` : "";
  const said = state.channel.so_far
    ? `${state.channel.label}: what it would say if the response ended here.${which}`
    : `Prefix value: the sum of implicit rewards so far.${which} With a reward that only comes at the end it is a value curve; ` +
      "responses to other prompts do not compare.";
  figure.replaceChildren(node, make("figcaption", {}, said));
  moveCurveCursor();
}

/** Put the cursor on the token that a pointer over the curve means. */
function followCurve(event, how) {
  const box = curve.node.getBoundingClientRect();
  const [atX, atY] = [((event.clientX - box.left) / box.width) * curve.width, ((event.clientY - box.top) / box.height) * curve.height];
  const count = Math.round(((atX - EDGE.left) / (curve.width - EDGE.left - EDGE.right)) * curve.most);
  const near = state.views
    .map((view, number) => {
      const token = Math.min(view.trace.count, Math.max(1, count)) - 1;
      return { view, token, gap: Math.abs(curve.y(curve.lines[number][token + 1]) - atY) + (count > view.trace.count ? 1e6 : 0) };
    })
    .filter(({ view }) => view.trace.count)
    .sort((a, b) => a.gap - b.gap)[0];
  if (near) select(near.view, near.token, how);
}

function moveCurveCursor() {
  if (!curve) return;
  const shown = state.cursor ? "visible" : "hidden";
  for (const node of [curve.cursor, curve.dot]) node.setAttribute("visibility", shown);
  if (!state.cursor) return;
  const { view, token } = state.cursor;
  const at = curve.x(token + 1);
  curve.cursor.setAttribute("x1", at);
  curve.cursor.setAttribute("x2", at);
  curve.dot.setAttribute("cx", at);
  curve.dot.setAttribute("cy", curve.y(curve.lines[state.views.indexOf(view)][token + 1]));
}
