// Searches: their settings, the tree as it grows, what was found, and how that becomes a branch.

/** What the fields of a search are called, and begin with. */
const SEARCH_FIELDS = {
  width: { label: "Width", value: 5 },
  n: { label: "Answers", value: 8 },
  simulations: { label: "Simulations", value: 64 },
  children: { label: "Children", value: 8 },
  chunk_samples: { label: "Chunks a beam", value: 4 },
  chunk_length: { label: "Chunk length", value: 5 },
  lookahead_top_k: { label: "Tokens judged", value: 10 },
  temperature: { label: "Temperature", value: 1 },
  seed: { label: "Seed", value: 0 },
  objective: { label: "Objective", options: ["reward", "likelihood"] },
  ranking: { label: "Ranked by", options: ["reward", "mean_reward", "likelihood", "mean_likelihood"] },
};
const MOST_OPEN = 300; // lines of a tree that grows which are all shown

function fillMethods() {
  find("method").append(...Object.keys(app.about.methods).map((name) => make("option", { value: name }, name.replaceAll("_", " "))));
  find("method").addEventListener("change", fillSettings);
  fillSettings();
}

function fillSettings() {
  const fields = app.about.methods[find("method").value].map((name) => {
    const { label, value, options } = SEARCH_FIELDS[name];
    const given = options ? make("select", { "data-setting": name }, ...options.map((option) => make("option", { value: option }, option.replaceAll("_", " ")))) : make("input", { type: "number", min: 0, step: name === "temperature" ? "any" : 1, value, "data-setting": name, required: true });
    return make("label", {}, `${label} `, given);
  });
  find("method-settings").replaceChildren(...fields);
}

async function search() {
  if (app.run) return say("Something runs already: s stops it.");
  const fields = [...find("method-settings").querySelectorAll("[data-setting]"), find("search_max_new_tokens"), find("budget")];
  const odd = fields.find((field) => !field.checkValidity());
  if (odd) return odd.reportValidity();
  if (!(await tried(readySession))) return;
  const settings = Object.fromEntries(fields.slice(0, -2).map((field) => [field.dataset.setting, field.type === "number" ? Number(field.value) : field.value]));
  settings.max_new_tokens = Number(find("search_max_new_tokens").value);
  if (find("budget").value) settings.budget = Number(find("budget").value);
  const { parent, at } = beginning();
  running("search");
  searched("The search begins.");
  find("candidates").replaceChildren();
  find("tree-box").hidden = true;
  state.result = null;
  const body = { run: app.run.id, parent, at, method: find("method").value, settings };
  try {
    await streamed(ofSession("/search"), body, {
      growing: ({ looked, result }) => (result && growTree(result), searched(`${counted(looked)} tokens looked at so far. s stops it with what it has.`)),
      result: ({ result, begun }) => foundResult(result, { parent, at, begun }),
      error: ({ message }) => searched(message),
    });
  } catch (problem) {
    if (!(problem instanceof Gone || problem instanceof Refused)) throw problem;
    searched(problem.message);
    if (problem instanceof Gone) back().then(() => searched("The server is back; the search is not."));
  } finally {
    stopped();
  }
}

const searched = (text) => {
  find("search-status").textContent = text;
};

/** Draw the tree of a search that runs, with all that it has looked at while that can be taken in. */
function growTree(result) {
  state.result = result;
  startTree();
  const count = result.tree?.above.length ?? 0;
  if (count <= MOST_OPEN) openWay(Array.from({ length: count }, (_, line) => line));
}

function foundResult(result, from) {
  state.result = result;
  startTree();
  const stopped = result.stopped ? `; ended by ${result.stopped === "interrupted" ? "you" : `the ${result.stopped}`}` : "";
  const tokens = counted(result.cost.policy_tokens);
  searched(`${result.candidates.length} answers by ${result.method.replaceAll("_", " ")}, best first by ${result.objective}; ${tokens} tokens through the policy${stopped}.`);
  find("candidates").replaceChildren(...result.candidates.slice(0, 50).map((one, place) => candidateRow(one, place, from)));
}

function candidateRow(one, place, from) {
  const keep = make("button", { type: "button", title: "Read it and keep it as a branch" }, "Keep");
  keep.addEventListener("click", () => keepCandidate(one, place, from, keep));
  const marks = one.terminal ? [] : [make("span", { class: "badge" }, "cut")];
  const line = one.line === null ? [] : [make("button", { type: "button", title: "Where it stands in the tree", onclick: () => showInTree(one.line) }, "in the tree")];
  return make(
    "li",
    {},
    make("span", { class: "number" }, written(one.score)),
    ...marks,
    make("span", { class: "answer", dir: "auto" }, visible(one.text)),
    make("span", { class: "acts" }, keep, ...line),
  );
}

async function keepCandidate(one, place, { parent, at }, button) {
  await tried(async () => {
    const method = state.result.method.replaceAll("_", " ");
    const body = { id: fresh(), name: `${method} ${place + 1}`, ids: one.id, parent, at, origin: "search" };
    const before = [app.open, app.beside];
    const branch = came(await sent("POST", ofSession("/branches"), body));
    undoable(`kept ${branch.name}`, () => unwritten([branch], before));
    button.disabled = true;
    button.textContent = "Kept";
    await showBranches(branch.id, null);
    say(`${branch.name} is kept as a branch.`);
  });
}

function goToSearch() {
  find("search").open = true;
  find("method").focus();
  find("search").scrollIntoView({ block: "start" });
}
