// What is shown, to take away: traces as JSON lines, numbers as CSV, the coloured text and its curve as SVG.

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

const fileName = (ending) => `trace-${index.rows[state.row].name.replace(/[^\w.-]+/g, "_").slice(0, 80)}.${ending}`;

/** Return a trace in the form in which tokenq writes it; numbers as short as the page has them. */
function traceRecord(trace) {
  const columns = trace.tokens;
  const tokens = columns.text.map((text, i) => {
    const token = { id: columns.id[i], text, start: columns.start[i], end: columns.end[i], written: Boolean(columns.written[i]) };
    for (const name of index.numbers) token[name] = columns[name][i];
    for (const list of Object.keys(LISTS)) token[list] = alternatives(trace, i, list).map(alternativeRecord);
    token.outputs = columns.outputs[i];
    return token;
  });
  const spans = Object.entries(trace.spans).flatMap(([level, columns]) =>
    columns.first.map((_, place) => {
      const span = { level };
      for (const [name, values] of Object.entries(columns)) span[name] = values[place];
      return span;
    }),
  );
  const { id, prompt, side, beta, gauge, terminal, totals, warnings, label, score, reward_model } = trace;
  const [policy, reference] = [index.models[trace.policy], index.models[trace.reference]];
  const judge = reward_model === null ? null : index.models[reward_model];
  const response = columns.text.join("");
  return { schema: index.schema, id, prompt, response, side, beta, gauge, terminal, policy, reference, tokens, spans, totals, warnings, label, score, reward_model: judge };
}

const alternativeRecord = ({ id, text, logp, refLogp, reward }) => ({ id, text, logp, ref_logp: refLogp, implicit_reward: reward });

function exportJson() {
  const lines = state.views.map((view) => `${JSON.stringify(traceRecord(view.trace))}\n`);
  download(fileName("jsonl"), "application/jsonl", lines.join(""));
}

/** A row per token. Texts are written as JSON has them, in quotes: line ends stay on their line, and no sheet runs them. */
function exportCsv() {
  const names = ["trace", "index", "id", "text", "start", "end", "written", ...index.numbers, "level", "stretch", "stretch_value"];
  const quote = (text) => `"${JSON.stringify(text).replace(/"/g, '""')}"`;
  const lines = [names.join(",")];
  for (const view of state.views) {
    const columns = view.trace.tokens;
    columns.text.forEach((text, i) => {
      const unit = view.units[view.unitOf[i]];
      const numbers = index.numbers.map((name) => columns[name][i] ?? "");
      const stretch = unit ? [unit.place, unit.value ?? ""] : ["", ""];
      const place = [quote(view.trace.id), i, columns.id[i], quote(text), columns.start[i], columns.end[i], columns.written[i]];
      lines.push([...place, ...numbers, state.level, ...stretch].join(","));
    });
  }
  download(fileName("csv"), "text/csv", `${lines.join("\r\n")}\r\n`);
}

const INK = {
  zero: { stroke: "#5a626d" },
  axis: { stroke: "#d5d9df" },
  parts: { stroke: "#0b57d0", "stroke-dasharray": "2 3" },
  line: { stroke: "#16191d", fill: "none", "stroke-width": 1.7 },
  "line second": { stroke: "#5a626d", fill: "none", "stroke-width": 1.7, "stroke-dasharray": "5 3" },
};

/** Draw what is on the page as it stands there, in the light colours, without the parts that scroll. */
function exportSvg() {
  const texts = find("texts").getBoundingClientRect();
  const shapes = [];
  let bottom = 30;
  for (const view of state.views) {
    const box = view.text.getBoundingClientRect();
    const shift = { x: -texts.left, y: 34 - box.top + view.text.scrollTop };
    shapes.push(svg("text", { x: box.left - texts.left + 12, y: 22, "font-weight": 600 }, xmlText(headline(view.trace))));
    view.nodes.forEach((node, token) => shapes.push(...tokenShapes(node, shift)));
    bottom = Math.max(bottom, 34 + view.text.scrollHeight);
  }
  const drawn = curveShapes(texts.width, 176);
  const group = svg("g", { transform: `translate(0 ${bottom + 8})`, "font-size": 11 });
  for (const shape of drawn.shapes) {
    for (const [name, value] of Object.entries(INK[shape.getAttribute("class")] || { fill: "#5a626d" })) shape.setAttribute(name, value);
    group.append(shape);
  }
  const legend = svg("text", { x: 12, y: bottom + 206, "font-size": 12, fill: "#5a626d" }, xmlText(legendLine()));
  const [width, height] = [Math.ceil(texts.width), bottom + 220];
  const style = getComputedStyle(state.views[0].text);
  const root = svg("svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}`, "font-family": style.fontFamily, "font-size": style.fontSize });
  root.append(svg("rect", { width, height, fill: "#ffffff" }), ...shapes, group, legend);
  download(fileName("svg"), "image/svg+xml", new XMLSerializer().serializeToString(root));
}

function headline(trace) {
  const { totals } = trace;
  const said = [["implicit reward", totals.implicit_reward], ["reward", totals.reward]].filter(([, number]) => number !== null);
  return `${trace.side || trace.id}: ${said.map(([name, number]) => `${name} ${written(number)}`).join(", ")}`;
}

function legendLine() {
  const under = UNDERLINES[state.underline] ? `; underline: ${UNDERLINES[state.underline].label}` : "";
  return `${state.channel.label} = ${state.channel.formula}, by ${state.level}; deepest colour at ${written(state.extent, false)}${under}`;
}

/** Return the grounds, underlines and pieces of text of a token, line by line. */
function tokenShapes(node, shift) {
  const share = Number(node.style.getPropertyValue("--share"));
  const under = Number(node.style.getPropertyValue("--under-share"));
  const sign = node.classList.contains("positive") ? "positive" : node.classList.contains("negative") ? "negative" : null;
  const [depth, ink] = node.classList.contains("shared") ? [0.18, "#5a626d"] : [0.72, "#16191d"];
  const colour = sign ? `rgb(${index.palette[sign].join(",")})` : "none";
  return textLines(node).flatMap(({ text, box }) => {
    const [x, y] = [box.left + shift.x, box.top + shift.y];
    const place = { x: x.toFixed(1), width: box.width.toFixed(1) };
    const shapes = [];
    if (sign && share > 0) shapes.push(svg("rect", { ...place, y: y.toFixed(1), height: box.height.toFixed(1), fill: colour, "fill-opacity": (depth * share).toFixed(3) }));
    if (under > 0) shapes.push(svg("rect", { ...place, y: (y + box.height).toFixed(1), height: (5 * under).toFixed(1), fill: "#6a3d9a" }));
    if (text.trim()) {
      const words = svg("text", { x: place.x, y: (y + 0.78 * box.height).toFixed(1), fill: ink }, xmlText(text));
      words.setAttributeNS("http://www.w3.org/XML/1998/namespace", "xml:space", "preserve");
      shapes.push(words);
    }
    return shapes;
  });
}

/** Return the text of an element as it is broken into lines, each with its box. */
function textLines(node) {
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const lines = [];
  while (walker.nextNode()) {
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    const text = walker.currentNode.data;
    const boxes = [...range.getClientRects()].filter((box) => box.width);
    if (boxes.length === 1) lines.push({ text, box: boxes[0] });
    else if (boxes.length) lines.push(...brokenLines(walker.currentNode, text));
  }
  const chip = node.querySelector(".glyph.boxed");
  if (!node.textContent && chip) lines.push({ text: chip.dataset.glyph, box: chip.getBoundingClientRect() });
  return lines;
}

function brokenLines(node, text) {
  const lines = [];
  let at = 0;
  for (const letter of text) {
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, (at += letter.length));
    const box = range.getBoundingClientRect();
    const line = lines[lines.length - 1];
    if (line && Math.abs(line.box.top - box.top) < 2) {
      line.text += letter;
      line.box = new DOMRect(Math.min(line.box.left, box.left), line.box.top, line.box.width + box.width, line.box.height);
    } else lines.push({ text: letter, box });
  }
  return lines;
}

/** XML has no control characters; a replacement stands for them. */
const xmlText = (text) => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd");
