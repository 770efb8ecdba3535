// Talking with the server: requests with the key where it needs one, streams that are read line by line, what is
// done when it is gone, and other windows of the same browser.

const KEY = "tokenq.key"; // in this window's memory alone, and gone with it

class Refused extends Error {
  constructor(status, message, code) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** The server cannot be reached, or has gone in the middle of an answer. */
class Gone extends Error {}

const headers = (body) => ({
  ...(sessionStorage.getItem(KEY) ? { authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {}),
  ...(body === undefined ? {} : { "content-type": "application/json" }),
});

/** Return the answer to a request; asks for a key where one is needed, and says what was refused. */
async function asked(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, { method, headers: headers(body), body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Gone("The server does not answer.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const { message, code } = said?.error ?? {};
  if (answer.status === 401) {
    await askForKey(message);
    return asked(method, path, body);
  }
  throw new Refused(answer.status, message || `The server answers ${answer.status}.`, code);
}

const got = async (path) => (await asked("GET", path)).json();
const sent = async (method, path, body) => (await asked(method, path, body)).json();
const ofSession = (path = "") => `/app/sessions/${app.session.id}${path}`;

/** Ask for the key, until there is one. */
function askForKey(message) {
  askForKey.waiting ??= (async () => {
    if (sessionStorage.getItem(KEY)) find("key-said").textContent = message || "That key is not one of this server.";
    const given = await answered("key-dialog", "key-box", "");
    sessionStorage.setItem(KEY, (given || "").trim());
    askForKey.waiting = null;
  })();
  return askForKey.waiting;
}

/** Return what somebody writes into the field of a dialog, null where they leave it. */
function answered(id, box, value) {
  const dialog = find(id);
  const before = document.activeElement;
  if (box) find(box).value = value;
  dialog.returnValue = "";
  dialog.showModal();
  if (box) find(box).select();
  return new Promise((resolve) => {
    const closed = () => {
      before?.focus?.();
      resolve(dialog.returnValue === "given" ? (box ? find(box).value : "given") : null);
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}

/** Hand the events of a stream, one after the other, to functions by their names. */
async function streamed(path, body, acts) {
  const answer = await asked("POST", path, body);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let [held, over] = ["", false];
  const event = (text) => {
    const [name, data] = text.split("\n").map((line) => line.slice(line.indexOf(": ") + 2));
    over ||= name === "done";
    acts[name]?.(JSON.parse(data));
  };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (held + value).split("\n\n");
      held = parts.pop();
      parts.forEach(event);
    }
  } catch (problem) {
    if (problem instanceof TypeError) throw new Gone("The server has gone in the middle of its answer.");
    throw problem;
  }
  if (!over) throw new Gone("The server has gone in the middle of its answer.");
}

/** Return when the server answers again. */
async function back() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const health = await fetch("/health").catch(() => null);
    if (health?.ok) return;
  }
}

/** Say something that must be seen, perhaps with something to do about it. */
function notice(text, act) {
  find("notice").hidden = !text;
  find("notice-text").textContent = text;
  find("notice-act").hidden = !act;
  find("notice-act").textContent = act?.label ?? "";
  find("notice-act").onclick = act ? () => (notice(""), act.act()) : null;
}

/** Do something that may be refused, and say so then. */
async function tried(act) {
  try {
    return await act();
  } catch (problem) {
    if (!(problem instanceof Refused || problem instanceof Gone)) throw problem;
    notice(problem.message);
    return undefined;
  }
}

const windows = "BroadcastChannel" in self ? new BroadcastChannel("tokenq") : null;

/** Tell other windows that a session is another one now. */
const told = (id) => windows?.postMessage(id);

const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
