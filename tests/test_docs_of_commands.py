"""What README and docs/ show of the command line and of Python runs as it stands, on small stand-ins for its inputs.

Models of the hub are folders of the same name, trainings take two steps, and what one page makes no other page sees.
`tokenq demo` alone is not run but asked whether it knows its flags: that it runs is tested where it stands.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from evaluation.stub_endpoint import StubEndpoint, said
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.diffusion.tiny import tiny_image_model

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("extending.md", "python.md", "serve.md")
"""Pages that have a test of their own."""
PAGES = [ROOT / "README.md", *sorted(one for one in (ROOT / "docs").glob("*.md") if one.name not in ELSEWHERE)]
MODELS = ("google/gemma-3-270m", "MODEL", "P", "R")
RUNS = {"first": "dpo", "dpo": "dpo", "dpo-0": "dpo", "dpo-1": "dpo", "dpo-2": "dpo", "ipo": "ipo", "simpo": "simpo"}
RESULTS = ("a", "b", "g")


def blocks(page, language):
    """Return the blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page):
    """Return the commands of a page, each in words; settings of the environment before them are left out."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [one[one.index("tokenq") + 1 :] for one in words if "tokenq" in one]


def rows(name):
    """Return the rows of a file that the pages name."""
    for n in range(12):
        row = {"prompt": f"What is {n} and {n}?", "answer": str(2 * n), "subset": "sums" if n % 2 else "others"}
        if name == "chains":
            row = {"prompt": row["prompt"], "summaries": [" it was so", f" it was {2 * n}", f" Ann had {2 * n}"]}
        elif name == "articles":
            row = {"article": f"Ann came to Lyon on {n + 1} May."}
        elif name in ("marked", "big_bench_mistake"):
            row["steps"] = [f" {n} and {n}.", f" That is {2 * n + n % 2}."]
            row |= {"response": "".join(row["steps"]), "errors": [[9, 10]], "label": 1 if n % 2 else -1}
        elif name == "demonstrations":
            row["completion"] = f" {2 * n}"
        elif name == "rated":
            row |= {"completion": f" {2 * n}", "ratings": {"helpfulness": n % 5, "verbosity": n // 3}}
        elif name not in ("questions",):
            row |= {"chosen": f" {2 * n}", "rejected": f" {n} or so"}
        yield row


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def command(*words):
    assert main([str(word) for word in words]) in ((0, 1) if words[0] == "doctor" else (0,))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with everything that the pages name."""
    home = tmp_path_factory.mktemp("docs")
    for seed, name in enumerate(MODELS):
        tiny_model("llama", layers=1, seed=min(seed, 1)).save_pretrained(home / name)
        tiny_tokenizer("bytes").save_pretrained(home / name)
    torch.manual_seed(0)
    names = ["helpfulness", "correctness", "coherence"]
    judge = AutoModelForSequenceClassification.from_pretrained(
        home / "MODEL", num_labels=3, id2label=dict(enumerate(names))
    )
    judge.save_pretrained(home / "RM")
    AutoTokenizer.from_pretrained(home / "MODEL").save_pretrained(home / "RM")
    files = ("pairs", "preferences", "questions", "test", "held_out", "marked", "big_bench_mistake", "demonstrations")
    files += ("rated", "chains", "articles")
    for name in files:
        write(home / f"{name}.jsonl", rows(name))
    (home / "short_question.txt").write_text("{article}")
    tiny_image_model(["what", "is", "and"]).save(home / "PIPELINE")
    (home / "redness.py").write_text(blocks(ROOT / "docs" / "images.md", "python")[-1])
    judged = {
        "instruction": "Say it.",
        "output_1": "base",
        "generator_1": "gpt",
        "output_2": "mine!",
        "generator_2": "mine",
    }
    write(
        home / "alpaca_eval_preferences.jsonl", [judged | {"preference": 1 + n % 2, "annotator": "a"} for n in range(6)]
    )
    return home


@pytest.fixture(scope="module")
def runs(home):
    """The same with runs, results of searches and judgements."""
    shared = ["--model", home / MODELS[0], "--data", home / "pairs.jsonl", "--device", "cpu", "--max-steps", "1"]
    for name, loss in {**RUNS, "kto": "kto", "rm": "bradley_terry"}.items():
        command("train", *shared, "--output", home / "runs" / name, "--loss", loss, "--eval-size", "4")
    for name in RESULTS:
        search = ["search", "--run", home / "runs" / "first", "--prompts", home / "test.jsonl", "--method", "sample"]
        command(*search, "--n", 2, "--max-new-tokens", 3, "--seed", ord(name), "--output", home / f"{name}.jsonl")
    return home


@pytest.fixture
def place(runs, tmp_path, monkeypatch):
    """A copy of it for one page, and a judge that answers."""
    shutil.copytree(runs, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    endpoint = StubEndpoint(lambda number, question: said(f"Verdict {re.findall('END ([A-Z0-9]+)', question)[-1]}: A"))
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield tmp_path / "home"
    endpoint.close()


def shortened(words):
    """Return a command in a form that ends soon."""
    if words[0] in ("demo", "serve"):
        return [*words, "--print-config"]
    more = [] if words[0] in ("compare", "cache", "doctor", "export") or "--device" in words else ["--device", "cpu"]
    if words[0] == "eval" and words[1] in ("win-rate", "best-of-n", "generation", "kl-frontier", "density"):
        more = []
    if words[0] == "train":
        held_out = ["--eval-size", "4"] if "--eval-size" in words else []  # the last of a flag holds
        more += ["--max-steps", "2", *held_out]
    if words[0] in ("search", "sweep"):
        more += ["--max-new-tokens", "3"]
    if words[0] == "sweep":
        more += ["--settings", "greedy", "beam width=2", "--pool", "2"]
    if words[0] == "online":
        more += ["--rounds", "2", "--prompts-per-round", "4", "--samples", "4", "--max-new-tokens", "4"]
    if words[0] == "densify":  # the stand-in for a model reads 256 bytes, and writes no JSON
        more += ["--prompt-file", "short_question.txt", "--max-new-tokens", "3"]
    if words[0] in ("online", "play") and "--environment" in words:
        more += ["--max-turns", "3", "--max-new-tokens", "4"]
    if words[0] == "play":
        more += ["--episodes", "2"]
    return [*words, *more]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands(page, place):
    for words in commands(page):
        if words[0] == "train":
            shutil.rmtree(words[words.index("--output") + 1], ignore_errors=True)
        command(*shortened(words))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python(page, place, monkeypatch):
    (place / "org" / "name").mkdir(parents=True)
    shutil.copy(place / "pairs.jsonl", place / "org" / "name" / "train.jsonl")
    shutil.rmtree(place / "runs" / "first")
    monkeypatch.setattr("tokenq.train", lambda *given, train=tokenq.train, **more: train(*given, **more, max_steps=2))
    model, tokenizer = tiny_model("llama", layers=1), tiny_tokenizer("bytes")
    names = {"tokenq": tokenq, "model": model, "tokenizer": tokenizer, "rows": list(rows("pairs"))}
    if page.name not in ("README.md", "train.md"):
        shutil.copytree(place / "runs" / "dpo", place / "runs" / "first")
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
