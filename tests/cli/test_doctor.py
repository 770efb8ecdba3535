"""`tokenq doctor` on real small runs: healthy ones pass, ones trained under a bad setting are told why."""

import json
import random
import shutil
from html.parser import HTMLParser

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.doctor import run
from tokenq.cli.flags import parse
from tokenq.cli.main import main
from tokenq.doctor.config import SECTIONS, SPELT_ELSEWHERE, DoctorConfig
from tokenq.doctor.doctor import CHECKS
from tokenq.doctor.finding import Evidence, Finding
from tokenq.errors import UserError
from tokenq.records.schema import SCHEMA
from tokenq.report.doctor_page import doctor_page, write_doctor_page
from tokenq.runs.record import read_run

pytestmark = pytest.mark.integration


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


GOOD_WORDS = ("cat", "dog", "bird", "house", "song", "sea")
BAD_WORDS = ("red", "old", "night", "mat", "question", "answer")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TEXT = " ".join([*GOOD_WORDS, *BAD_WORDS, *NUMBERS, "say", ":"])


def rows_of(count, seed, *, noise=0.15):
    """Return pairs of sentences: most of the chosen ones have more good words than bad ones."""
    draw = random.Random(seed)

    def sentence(share):
        words = [draw.choice(GOOD_WORDS if draw.random() < share else BAD_WORDS) for _ in range(draw.randint(6, 12))]
        return "".join(f" {word}" for word in words)

    rows = []
    for _ in range(count):
        numbers = " ".join(draw.choice(NUMBERS) for _ in range(5))
        sides = [sentence(0.65), sentence(0.35)]
        chosen, rejected = sides if draw.random() > noise else sides[::-1]
        rows.append({"prompt": f"say {numbers} :", "chosen": chosen, "rejected": rejected})
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A start model and another of its kind, demonstrations and preferences, and three runs that go well."""
    root = tmp_path_factory.mktemp("doctor")
    tokenizer = tiny_tokenizer("words", texts=[TEXT, " " + TEXT], bos="known")
    for name, seed in (("start", 0), ("other", 1)):
        tiny_model("gpt_neox", layers=1, seed=seed, vocab_size=len(tokenizer)).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    rows = rows_of(800, seed=0)
    demonstrations = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows[:320]]
    write_rows(root / "demonstrations.jsonl", demonstrations)
    write_rows(root / "pairs.jsonl", rows[320:700])
    write_rows(root / "held_out.jsonl", rows[700:])
    words = ["--loss", "sft", "--learning-rate", "3e-3", "--warmup-steps", "4", "--eval-size", "40"]
    train(root, "sft", "start", "demonstrations.jsonl", *words, "--batch-size", "8")
    train(root, "dpo", "sft/policy", "pairs.jsonl", *GOOD, "--eval-data", str(root / "held_out.jsonl"))
    train(root, "lora", "sft/policy", "pairs.jsonl", *GOOD, "--learning-rate", "3e-3", "--lora-rank", "4")
    return root


GOOD = ["--learning-rate", "3e-4", "--warmup-steps", "3", "--batch-size", "16"]


def train(root, output, model, data, *words):
    given = ["train", "--model", str(root / model), "--data", str(root / data), "--output", str(root / output)]
    given += ["--device", "cpu", "--keep-checkpoints", "0", "--reference-store", str(root / "store"), *words]
    assert main(given) == 0


def doctor(*words):
    """Return the exit code of the command."""
    config = parse(
        DoctorConfig, list(map(str, words)), prog="tokenq doctor", sections=SECTIONS, spelt_elsewhere=SPELT_ELSEWHERE
    )
    assert config is not None
    return run(config)


def examined(folder, *words):
    """Return the exit code, and the findings by name, of an examination that writes JSON beside the run."""
    output = folder.with_name(f"{folder.name}.json")
    code = doctor(*words, "--output", output)
    record = json.loads(output.read_text())
    return code, {finding["name"]: finding for finding in record["findings"]}, record


@pytest.mark.parametrize("name", ["sft", "dpo", "lora"])
def test_a_healthy_run_has_nothing_worse_than_a_note(name, place, capsys):
    code, findings, record = examined(place / name, "--run", place / name)
    assert {one["severity"] for one in findings.values()} <= {"note"}, findings
    assert code == 0
    assert record["unseen"] == []
    assert record["examined"] == str(place / name)
    assert record["checks"] == list(CHECKS)
    assert record["config"]["run"] == str(place / name)
    assert record["schema"] == SCHEMA
    told = json.loads((place / name / "provenance.json").read_text())
    assert record["model"] == told["model"]
    printed = capsys.readouterr().out
    assert f"from {len(CHECKS)} checks." in printed
    assert all(finding in printed for finding in findings)


def test_both_log_probs_fall_and_that_is_explained(place, capsys):
    _, findings, _ = examined(place / "lora", "--run", place / "lora", "--depth", "record")
    assert findings["nothing-held-out"]["severity"] == "note"
    assert "Give --eval-size" in capsys.readouterr().out


@pytest.fixture
def sick(place):
    """Return (words for training) → exit code and findings of a run of its own."""

    def examine(*words, model="sft/policy", data="pairs.jsonl", loss=GOOD):
        train(place, "sick", model, data, *loss, *words)
        try:
            return examined(place / "sick", "--run", place / "sick")[:2]
        finally:
            shutil.rmtree(place / "sick")

    return examine


def worse(findings):
    return {name for name, one in findings.items() if one["severity"] != "note"}


def test_steps_that_are_far_too_long(sick):
    code, findings = sick("--learning-rate", "0.1", "--optimizer", "adamw")
    assert code == 1
    assert worse(findings) & {"worse-than-untrained", "spikes", "chosen-collapses"}
    assert findings["chosen-collapses"]["severity"] == "error"


def test_steps_that_are_far_too_short(sick):
    code, findings = sick("--learning-rate", "1e-8")
    assert (code, worse(findings)) == (1, {"nothing-moved"})


def test_responses_that_were_cut(sick):
    code, findings = sick("--truncation", "response_right", "--max-length", "15", "--max-steps", "4")
    assert code == 1
    assert "responses-cut" in worse(findings)


def test_another_model_as_reference(place, sick):
    code, findings = sick("--reference", str(place / "other"), "--max-steps", "4")
    assert code == 1
    assert findings["start-off-reference"]["severity"] == "error"


def test_rows_that_repeat_and_contradict(place, sick):
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()][:64]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:16]]
    write_rows(place / "repeated.jsonl", [*rows, *rows[:32], *turned])
    code, findings = sick(data="repeated.jsonl")
    assert code == 1
    assert worse(findings) == {"duplicate-rows", "contradictory-pairs"}
    assert findings["duplicate-rows"]["evidence"][0]["value"] == 32
    assert findings["contradictory-pairs"]["evidence"][0]["value"] == 16


def test_held_out_rows_that_are_trained_on(place, sick):
    first = (place / "pairs.jsonl").read_text().splitlines(keepends=True)[:60]
    (place / "leaked.jsonl").write_text("".join(first))
    code, findings = sick("--eval-data", str(place / "leaked.jsonl"), "--max-steps", "4")
    assert (code, worse(findings)) == (1, {"held-out-leaks"})


def test_weights_and_rows_that_were_changed_after_the_run(place, tmp_path):
    shutil.copytree(place / "sft" / "policy", tmp_path / "base")
    shutil.copy(place / "pairs.jsonl", tmp_path / "pairs.jsonl")
    train(place, tmp_path / "run", tmp_path / "base", tmp_path / "pairs.jsonl", *GOOD, "--max-steps", "12")
    assert doctor("--run", tmp_path / "run") == 0
    shutil.copy(place / "other" / "model.safetensors", tmp_path / "base" / "model.safetensors")
    with open(tmp_path / "pairs.jsonl", "a") as file:
        file.write(json.dumps({"prompt": "say :", "chosen": " cat", "rejected": " old"}) + "\n")
    code, findings, _ = examined(tmp_path / "run", "--run", tmp_path / "run")
    assert (code, worse(findings)) == (1, {"stale-reference", "data-changed"})
    assert findings["stale-reference"]["severity"] == "error"
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "pairs.jsonl").unlink()
    code, findings, record = examined(tmp_path / "run", "--run", tmp_path / "run")
    assert (code, worse(findings)) == (0, set())
    assert [what.split(" (")[0] for what in record["unseen"]] == ["the rows", "the weights of the reference"]


def test_a_policy_with_its_reference_and_data(place, capsys):
    words = ["--policy", place / "dpo" / "policy", "--reference", place / "sft" / "policy"]
    code, findings, record = examined(place / "pair", *words, "--data", place / "held_out.jsonl", "--device", "cpu")
    assert (code, worse(findings)) == (0, set())
    last = read_run(place / "dpo").evals[-1]
    drift = {one["what"]: one["value"] for one in findings["both-fall"]["evidence"]}
    chosen = last["eval_rewards/chosen"] / 0.1
    assert drift["log π − log π_ref of the chosen responses, nats"] == pytest.approx(chosen, abs=1e-3)
    assert record["policy"]["path"] == str(place / "dpo" / "policy")
    assert record["reference"]["architecture"] == "GPTNeoXForCausalLM"


def test_models_that_do_not_belong_together(place):
    words = ["--policy", place / "dpo" / "policy", "--reference", place / "other", "--rows", "20"]
    code, findings, _ = examined(place / "pair", *words, "--data", place / "held_out.jsonl", "--device", "cpu")
    assert code == 1
    assert "models-do-not-belong-together" in findings


def test_without_a_reference_the_data_is_looked_at(place, capsys):
    words = ["--policy", place / "sft" / "policy", "--data", place / "pairs.jsonl"]
    code, findings, record = examined(place / "rows", *words)
    assert (code, findings) == (0, {})
    assert record["unseen"] == ["what policy and reference say of the pairs (no --reference)"]
    assert "not looked at: what policy and reference say" in capsys.readouterr().out


def test_what_the_policy_writes(place):
    words = ["--run", place / "dpo", "--answer-prompts", "6", "--max-new-tokens", "24", "--device", "cpu"]
    _, findings, _ = examined(place / "dpo", *words)
    values = {one["what"]: one["value"] for one in findings["kl-of-samples"]["evidence"]}
    assert values["responses"] == 6
    assert abs(values["KL(π‖π_ref), nats per response"]) < 24


class Tags(HTMLParser):
    """The elements of a page, and whatever would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_shows_findings_and_curves_and_runs_nothing(place, tmp_path):
    page = tmp_path / "page.html"
    assert doctor("--run", place / "dpo", "--depth", "record", "--html", page) == 0
    text = page.read_text()
    tags = Tags(text)
    assert "script" not in tags.names
    assert tags.links == ["data:,"]
    assert tags.names.count("article") == text.count('<article class="note"') > 0
    assert tags.names.count("figure") == 7  # all but log π of responses
    assert "both-fall" in text


def test_the_page_escapes_what_it_shows(place, tmp_path):
    hostile = "<script>alert(1)</script>"
    finding = Finding("x", "warning", hostile, (Evidence(hostile, hostile, 3),), hostile)
    text = doctor_page([finding], read_run(place / "dpo"), [hostile])
    assert hostile not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5
    assert "script" not in Tags(text).names
    write_doctor_page(tmp_path / "page.html", [finding], read_run(place / "dpo"), ["\ud800"])
    assert (tmp_path / "page.html").read_text().endswith("</html>")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Give either --run or --policy"),
        (["--run", "a", "--policy", "b"], "Give either --run or --policy"),
        (["--run", "a", "--data", "d"], "--run brings its own data"),
        (["--policy", "p"], "--policy without --data"),
        (["--run", "a", "--rows", "0"], "--rows is 0."),
        (["--run", "a", "--beta", "0"], "--beta is 0.0."),
        (["--run", "a", "--answer-prompts", "3", "--depth", "data"], "--answer-prompts needs the models"),
        (["--run", "nowhere/run"], "provenance.json is missing"),
        (["--policy", "nowhere/model", "--data", "d.jsonl"], "No folder|nowhere"),
    ],
)
def test_what_cannot_be_meant(words, says):
    with pytest.raises(UserError, match=says):
        doctor(*words)
