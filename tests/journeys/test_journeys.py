"""From rows to a page, one command after the other: what each leaves, the next one reads.

A journey is a loss, how it is trained (all weights, an adapter, one begun from another adapter), and whether rows are
text or chats. Nothing is asserted of the numbers but what must hold of any: the policy that `score --run` reads is the
one that the training evaluated, complete answers stand before cut ones, every page opens. A dozen journeys are drawn
by a seed; all of them are slow.
"""

import json
import math
import random
from html.parser import HTMLParser

import pytest
from tiny import CHATML, tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.core.losses import LOSSES, find_sum
from tokenq.records.trace_files import read_traces
from tokenq.report import outcome_page

WORDS = ["cat", "dog", "sea", "old", "red", "mat", "sun", "sky"]
WAYS = {"full": (), "LoRA": ("--lora-rank", "2"), "from an adapter": ("--adapter", "adapter")}
TEXTS = {"text": (), "chat": ("--style", "chat")}
JOURNEYS = [
    (loss, way, text)
    for loss, row in LOSSES.items()
    for way in WAYS
    for text in TEXTS
    if way != "from an adapter" or row.output == "logps"  # reward models begin with a new head
]
DOZEN = random.Random(0).sample(JOURNEYS, 12)
BESIDE = {"beside": "full", "beside the adapter": "from an adapter"}
"""Runs of DPO to compare others with, and how they were trained: two are compared if they began from one model."""
OF_KIND = {"steps": ("--levels", "step"), "rated": ("--reward-weights", "good=1", "short=0.5")}
"""Flags that say how rows of a kind are read."""
KINDS = {"calibrated": "pairs", "margins": "pairs"}


def rows_for(kind):
    """Return rows of the form that a loss learns from; pairs have what some losses read beside them."""
    for number, word in enumerate(WORDS):
        forms = {
            "pairs": {"chosen": f" a {word}", "rejected": f" no {number}"}
            | {"calibration": " so", "margin": number % 3},
            "labelled": {"completion": f" {number} {word}", "label": number % 2 == 0},
            "rollouts": {"completion": f" {number} {word}", "advantages": number - 3.5, "old_logps": -5.5}
            | {"returns": number, "old_values": 0},
            "weighted": {"prompt": f"{WORDS[number // 2 * 2]}?", "completion": f" {number} {word}", "old_logps": -5.5}
            | {"target_weights": 0.25 + number % 2 / 2},
            "rewarded": {"completion": f" {number} {word}", "reward": number % 3 / 2},
            "ranked": {"answers": [{"answer": f" {word} {rank}", "rank": rank} for rank in (1, 2, 3)]},
            "rated": {"completion": f" {number} {word}", "ratings": {"good": number % 4, "short": number % 2}},
            "steps": {"completions": [f" {word}.", " so.", " 7."], "labels": [True, number % 2 == 0, False]},
            "responses": {"completion": f" {number} {word}"},
        }
        yield {"prompt": f"{word}?", "answer": f"a {word}"} | forms[kind]


def command(*words):
    """Run a command, which must succeed: 0, or for the doctor 1, where it found something."""
    code = main([str(word) for word in words])
    assert code in ((0, 1) if words[0] == "doctor" else (0,))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Models of one layer with and without a chat template, an adapter of each, rows, and a run to compare with."""
    home = tmp_path_factory.mktemp("journeys")
    for kind in {KINDS.get(want, want) for want in (find_sum(loss).selection for loss in LOSSES)}:
        lines = [json.dumps(row) + "\n" for row in rows_for(kind)]
        (home / f"{kind}.jsonl").write_text("".join(lines[:6]))
        (home / f"{kind}-held-out.jsonl").write_text("".join(lines[6:]))
    for text, template in (("text", None), ("chat", CHATML)):
        model = tiny_model("gpt_neox", layers=1)
        model.save_pretrained(home / text / "model")
        eos = "<eos>" if template is None else "<|im_end|>"
        tiny_tokenizer("bytes", eos=eos, chat_template=template).save_pretrained(home / text / "model")
        train(home, text, "other", "sft", "responses", *WAYS["LoRA"])
        (home / text / "other" / "policy").rename(home / text / "adapter")
        for name, way in BESIDE.items():
            train(home, text, name, "dpo", "pairs", *started(home, text, way))
    return home


def started(home, text, way):
    """Return the flags of a way to train."""
    return [str(home / text / word) if word == "adapter" else word for word in WAYS[way]]


def train(home, text, output, loss, kind, *more):
    """Train, and return the folder of the run."""
    run = home / text / output
    words = ["--model", home / text / "model", "--data", home / f"{kind}.jsonl", *TEXTS[text]]
    words += ["--eval-data", home / f"{kind}-held-out.jsonl", "--output", run, "--loss", loss, "--device", "cpu"]
    words += ["--batch-size", "3", "--learning-rate", "1e-2", "--reference-store", home / "store"]
    command("train", *words, *(("--max-steps", "1") if "--max-steps" not in more else ()), *more)
    return run


class Page(HTMLParser):
    """What a page holds: its elements, and the data in its islands."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.islands, self._open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self._open = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data):
        if self._open:
            self.islands.append(json.loads(data))
            self._open = False


def opens(path):
    """Assert that a page is whole: it has a title and something to see, and its data are JSON."""
    text = path.read_text()
    page = Page(text)
    assert text.rstrip().endswith("</html>")
    assert "title" in page.elements
    assert {"table", "svg", "script"} & set(page.elements)


def same_policy(run, traces):
    """Assert that every response of the last evaluation is read with the same sums."""
    evaluated = [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]
    sides = {line["side"] for line in evaluated}
    read = [(trace.totals.logp, trace.totals.ref_logp) for trace in traces]
    for line in evaluated:
        if line["side"] is None and len(sides) > 1:
            continue  # a response beside the prompt of another, which no row holds
        near = [one for one in read if math.isclose(one[0], line["logp"], abs_tol=1e-3)]
        assert near
        assert line["ref_logp"] is None or any(math.isclose(one[1], line["ref_logp"], abs_tol=1e-3) for one in near)
    assert evaluated


def same_rewards(run, traces):
    """Assert that a reward model gives what was chosen, and what was not, the mean rewards of the last evaluation."""
    evaluated = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    traces = list(traces)
    for side in ("chosen", "rejected"):
        read = [trace.totals.reward for trace in traces if trace.side == side]
        assert not read or math.isclose(sum(read) / len(read), evaluated[f"eval_rewards/{side}"], abs_tol=1e-4)


def travel(home, loss, way, text):
    """Train, go on, examine, compare, read, search and evaluate."""
    found = find_sum(loss)
    kind = KINDS.get(found.selection, found.selection)
    more = started(home, text, way)
    name = f"{loss} {way}"
    train(home, text, name, loss, kind, *more)
    run = train(home, text, name, loss, kind, *more, "--max-steps", "2", "--resume")
    pages = [run / f"{page}.html" for page in ("doctor", "read", "evaluated")]
    command("doctor", run, "--html", pages[0], "--output", run / "doctor.json")
    assert json.loads((run / "doctor.json").read_text())["unseen"] == []
    how = ["--device", "cpu", *TEXTS[text], *OF_KIND.get(kind, ())]
    last = run / "checkpoints" / "step-2"
    models = ["--reward-model", last] if found.output == "rewards" else ["--policy", last]
    traces = run / "traces.parquet"
    command("score", *models, "--data", home / f"{kind}-held-out.jsonl", "--output", traces, "--html", pages[1], *how)
    same = same_rewards if found.output == "rewards" else same_policy
    same(run, read_traces(traces))
    if found.output == "rewards":
        evaluate_rewards(home, run, kind, traces, pages[2], how)
    else:
        pages += search_and_evaluate(home, run, kind, traces, pages[2], how)
        if kind == "pairs":
            beside = home / text / ("beside the adapter" if way == "from an adapter" else "beside")
            command("compare", run, beside, "--resamples", "1000", "--html", run / "compared.html")
            pages.append(run / "compared.html")
    command("export", run, "--output", run / "exported", "--best")
    for page in pages:
        opens(page)


def evaluate_rewards(home, run, kind, traces, page, how):
    """Evaluate a reward model by what it was trained for."""
    task = ["first-error", "--folds", "2"] if kind == "steps" else ["preference"]
    if kind == "rated":
        data = ["--data", home / "pairs.jsonl", "--reward-model", run / "reward_model", *how]
    else:
        data = ["--traces", traces]
    command("eval", *task, *data, "--output", run / "evaluated.json", "--html", page, "--resamples", "1000")


def search_and_evaluate(home, run, kind, traces, page, how):
    """Search with a policy, evaluate it, and return the page of the search."""
    results, found = run / "results.jsonl", run / "search.html"
    prompts = home / f"{kind}-held-out.jsonl"
    search = ["search", "--run", run, "--prompts", prompts, "--method", "best_of_n", "--n", "4"]
    command(*search, "--max-new-tokens", "3", "--output", results, "--html", found, *how)
    spent = min(json.loads(line)["cost"]["policy_tokens"] for line in results.read_text().splitlines())
    stopped = run / "stopped.jsonl"  # before any response has its most tokens: those that are complete have EOS
    command(*search, "--max-new-tokens", "9", "--budget", spent, "--output", stopped, *how)
    for line in stopped.read_text().splitlines():
        candidates = json.loads(line)["candidates"]
        assert max(len(candidate["token_ids"]) for candidate in candidates) < 9
        assert candidates[0]["terminal"] or not any(candidate["terminal"] for candidate in candidates)
    evaluated = ["--output", run / "evaluated.json", "--html", page, "--resamples", "1000"]
    if kind == "pairs":
        command("eval", "preference", "--traces", traces, *evaluated)
    else:
        answers = ["--results", f"policy={results}", "--prompts", prompts, "--answer", "text"]
        command("eval", "generation", *answers, *evaluated)
    return [found]


@pytest.mark.parametrize(("loss", "way", "text"), DOZEN)
def test_a_dozen(loss, way, text, home, monkeypatch):
    """No chart is drawn on their pages, of which nothing is asserted here: the slow ones draw all."""
    monkeypatch.setattr(outcome_page, "installed", lambda: False)
    travel(home, loss, way, text)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "way", "text"), [one for one in JOURNEYS if one not in DOZEN])
def test_all_others(loss, way, text, home):
    travel(home, loss, way, text)
