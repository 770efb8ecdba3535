"""`tokenq sweep` as a user types it, on a tiny model."""

import json

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.records.results import read_results

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tiny_tokenizer("bpe").save_pretrained(root / name)
    rows = [{"prompt": f"{number} and", "solution": f"#### {number}"} for number in range(5)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def words(place, tmp_path, *more):
    given = ["sweep", "--policy", str(place / "policy"), "--reference", str(place / "reference")]
    given += ["--prompts", str(place / "prompts.jsonl"), "--output", str(tmp_path / "out"), "--max-new-tokens", "6"]
    return [*given, "--device", "cpu", *more]


JUDGED = ("--answer", r"regex:\w", "--gold", "solution")


def test_a_table_a_figure_and_every_result(place, tmp_path, capsys):
    settings = ["--settings", "greedy", "sample n=3", "best_of_n n=2", "majority n=3", "beam width=2"]
    settings += ["mcts simulations=2", "sample n=2 temperature=0.5", "beam_sample width=2 top_k=50"]
    assert main(words(place, tmp_path, *JUDGED, *settings, "--pool", "4")) == 0
    printed = capsys.readouterr().out
    out = tmp_path / "out"
    said, table = (out / "sweep.md").read_text().split("\n\n")
    assert f"- policy: {place / 'policy'}" in said.splitlines()
    assert f"- prompts: {place / 'prompts.jsonl'}" in said.splitlines()
    assert "| ---" not in printed
    assert max(map(len, printed.splitlines())) <= 200
    names = ["greedy", "sample n=3", "best_of_n n=2", "majority n=3", "beam width=2", "mcts simulations=2"]
    names += ["sample n=2 temperature=0.5", "beam_sample width=2 top_k=50"]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == names
    assert all(printed.count(name) >= 3 for name in names)
    record = json.loads((out / "sweep.json").read_text())
    points = {one["setting"]: one for one in record["points"]}
    pool = list(read_results(out / "results" / "pool.jsonl"))
    assert {len(one.candidates) for one in pool} == {4}
    three = [one.cost.policy_tokens - sum(len(c.token_ids) - 1 for c in one.candidates[3:]) for one in pool]
    assert points["sample n=3"]["policy_tokens"] == pytest.approx(sum(three) / 5)
    right = [sum(c.answer == str(number) for c in one.candidates[:3]) / 3 for number, one in enumerate(pool)]
    assert points["sample n=3"]["quality"]["value"] == pytest.approx(sum(right) / 5)
    assert [one["name"] for one in points["greedy"]["rivals"]] == ["sample", "best_of_n", "majority"]
    assert [points["greedy"]["beats_greedy"][name]["value"] for name in ("wins", "ties", "losses")] == [0, 1, 0]
    for one in points.values():
        for found in (one["beats_greedy"], *(rival["beats"] for rival in one["rivals"])):
            assert sum(share["value"] for share in found.values()) == pytest.approx(1)
    files = {"sweep.json", "sweep.md", "sweep.svg", "sweep.png", "results"}
    assert {path.name for path in out.iterdir()} == files
    assert record["config"]["seed"] == 0
    assert record["policy"]["path"] == str(place / "policy")
    assert main(words(place, tmp_path, *JUDGED, *settings, "--pool", "4")) == 0
    assert (out / "sweep.md").read_text() != ""


def test_weights_of_a_proxy_are_swept(place, tmp_path, capsys):
    """The policy steered by (reference, policy): weight 0 is the policy itself, weight 1 the reference itself."""
    pair = [str(place / "reference"), str(place / "policy")]
    settings = ["--settings", "greedy", "greedy alpha=0", "greedy alpha=0.5", "greedy alpha=1"]
    assert main(words(place, tmp_path, *JUDGED, *settings, "--proxy", *pair, "--pool", "1")) == 0
    results = tmp_path / "out" / "results"

    def said(name):
        return [one.candidates[0].token_ids for one in read_results(results / f"{name}.jsonl")]

    def alone(name):
        path = tmp_path / f"{name}.jsonl"
        given = ["search", "--policy", str(place / name), "--prompts", str(place / "prompts.jsonl")]
        assert (
            main([*given, "--method", "greedy", "--max-new-tokens", "6", "--device", "cpu", "--output", str(path)]) == 0
        )
        return [one.candidates[0].token_ids for one in read_results(path)]

    assert said("greedy,alpha=0") == alone("policy")
    assert said("greedy,alpha=1") == said("greedy") == alone("reference")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "nothing to judge by"),
        (["--gold", "solution"], "--gold needs --answer"),
        (["--answer", "last_number", "--gold", "answers"], "row 1 has no column 'answers'"),
        ([*JUDGED, "--settings", "beams"], "Did you mean 'beam'"),
        ([*JUDGED, "--settings", "beam widht=3"], "Did you mean 'width'"),
        ([*JUDGED, "--settings", "beam width=many"], "takes a whole number"),
        ([*JUDGED, "--settings", "beam width=0"], "--width is 0"),
        (["--answer", "boxed", "--gold", "solution"], "no answer is found in 'solution'"),
    ],
)
def test_bad_input(place, tmp_path, capsys, more, says):
    assert main(words(place, tmp_path, *more)) == 2
    assert says in capsys.readouterr().err


def test_ids_are_unique(place, tmp_path, capsys):
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}\n')
    given = ["search", "--policy", str(place / "policy"), "--prompts", str(tmp_path / "twice.jsonl")]
    assert main([*given, "--output", str(tmp_path / "o.jsonl")]) == 2
    assert "twice.jsonl, row 2: the id 'a' stands in" in capsys.readouterr().err
