// What is asked for in the controls above the texts: colour, level, underline, scale; the table, the keys, the theme.
// The page that they stand on says what each key does (KEYS) and what its address remembers (remember).

/** Colour anew, and all that depends on the colour. */
function refresh() {
  if (!state.views.length) return; // the first row is on its way
  paint();
  drawCurve();
  drawShares();
  drawTable();
  if (state.cursor) select(state.cursor.view, state.cursor.token);
  remember();
}

function setChannel(number) {
  if (!CHANNELS[number]) return;
  state.channel = CHANNELS[number];
  showChoices();
  refresh();
}

function setLevel(level) {
  if (!index.levels.includes(level)) return;
  state.level = level;
  showChoices();
  if (state.sort === "worst") drawRows();
  refresh();
}

const nextLevel = () => setLevel(index.levels[(index.levels.indexOf(state.level) + 1) % index.levels.length]);

function toggleTable() {
  const box = find("table");
  box.hidden = !box.hidden;
  find("table-button").setAttribute("aria-expanded", String(!box.hidden));
  drawTable();
  if (!box.hidden) box.scrollIntoView({ block: "nearest" });
}

function toggleKeys() {
  const keys = find("keys");
  keys.hidden = !keys.hidden;
  find("help").setAttribute("aria-expanded", String(!keys.hidden));
}

function turnTheme() {
  const root = document.documentElement;
  const next = { undefined: "light", light: "dark", dark: undefined }[root.dataset.theme];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  find("theme").textContent = `Theme: ${next || "system"}`;
}

function letGo() {
  if (state.pinned && state.cursor) {
    state.pinned = false;
    select(state.cursor.view, state.cursor.token);
  } else {
    unmark();
    state.cursor = null;
    inspect();
    moveCurveCursor();
  }
  remember();
}

/** Keys belong to the page, except where a control has its own use for them. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const control = event.target.closest("input, select, textarea, button, summary, a");
  const typing = control && control.matches('select, textarea, input:not([type="radio"])');
  const moves = ["Enter", "ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key);
  const scrolls = ["Home", "End"].includes(event.key) && !event.target.closest(".token");
  if (typing || (control && moves) || scrolls || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

/** Let the controls say what is shown. */
function showChoices() {
  find(`channel-${CHANNELS.indexOf(state.channel)}`).checked = true;
  find("level").value = state.level;
  find("aggregate-box").hidden = state.level === "token" || state.channel.so_far;
}

/** Give a select its options, and have it told what is chosen. */
function fillSelect(id, entries, choose) {
  find(id).append(...entries.map(([value, label]) => make("option", { value }, label)));
  find(id).addEventListener("change", (event) => choose(event.target.value));
}

function fillControls() {
  CHANNELS.forEach(({ label, formula }, number) => {
    const input = make("input", { type: "radio", name: "channel", id: `channel-${number}`, onchange: () => setChannel(number) });
    find("channels").append(make("label", { title: `${formula} (${number + 1})` }, input, label));
    KEYS[String(number + 1)] = () => setChannel(number);
  });
  find("last-channel").textContent = String(CHANNELS.length);
  find("underline-box").hidden = CHANNELS.every(({ so_far }) => so_far); // all of it is said by a policy
  fillSelect("level", index.levels.map((level) => [level, level]), setLevel);
  const unders = Object.entries(UNDERLINES).map(([name, { label }]) => [name, label]);
  fillSelect("underline", [["", "none"], ...unders], (name) => chose("underline", name));
  fillSelect("aggregate", [], (name) => chose("aggregate", name));
  fillSelect("scale", [], (name) => chose("scale", name));
  find("intensity").addEventListener("input", (event) => chose("intensity", Number(event.target.value)));
}

function chose(what, value) {
  state[what] = value;
  if (what === "intensity" || what === "underline") paint();
  else refresh();
}

/** Listen to the buttons of the controls, and to the width of the window. */
function listenToControls(more) {
  const clicks = { next: () => jump(1), previous: () => jump(-1), theme: turnTheme, help: toggleKeys, "table-button": toggleTable, ...more };
  for (const [id, act] of Object.entries(clicks)) find(id).addEventListener("click", act);
  document.addEventListener("keydown", pressed);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) drawCurve();
    width = window.innerWidth;
  });
}
