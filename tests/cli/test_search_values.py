"""What `tokenq search` and `tokenq.decode` take: numbers in their ranges, prompts of every form, a judge."""

import json
import math

import pytest
from tiny import CHATML, tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.records.examples import Message
from tokenq.records.results import read_results

FEW = {"method": "greedy", "max_new_tokens": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy, and one with a chat template."""
    root = tmp_path_factory.mktemp("values")
    for name in ("policy", "chat"):
        tiny_model("llama", layers=1, vocab_size=320).save_pretrained(root / name)
        tokenizer = tiny_tokenizer("bpe")
        tokenizer.chat_template = CHATML if name == "chat" else None
        tokenizer.save_pretrained(root / name)
    (root / "prompts.jsonl").write_text('{"prompt": "The sky is"}\n{"prompt": "Two"}\n')
    return root


NOT = ("nan", "inf", "-inf", "1e999")
REFUSED = [
    *((flag, value) for flag in ("--beta", "--temperature", "--top-p", "--length-penalty") for value in NOT),
    *((flag, value) for flag in ("--min-p", "--exploration", "--lookahead-weight") for value in NOT),
    *(("--alpha", value) for value in NOT if value != "-inf"),
    *(("--diversity-penalty", value) for value in NOT),
    *(("--beta", value) for value in ("0", "-1", "-0.0", "1e7")),
    *(("--temperature", value) for value in ("-1", "1e-9")),
    *((flag, value) for flag in ("--top-p",) for value in ("0", "1.01", "-0.5")),
    *(("--min-p", value) for value in ("-0.1", "1.1")),
    *((flag, value) for flag in ("--width", "--n", "--groups", "--simulations") for value in ("0", "-1", "1000000000")),
    *((flag, value) for flag in ("--chunk-samples", "--chunk-length") for value in ("0", "1000000000")),
    *((flag, value) for flag in ("--lookahead-top-k", "--batch-size") for value in ("0", "-3", "1000000000")),
    *(("--max-new-tokens", value) for value in ("0", "-1", "1000000000")),
    *((flag, "0") for flag in ("--tokens-per-batch", "--budget")),
    *((flag, "-1") for flag in ("--rollouts", "--children", "--seed", "--top-k", "--budget")),
    ("--rollouts", "1000000000"),
    ("--seed", "1" * 30),
    ("--length-penalty", "1e6"),
    ("--alpha", "1e6"),
]
METHOD_OF = {
    "--temperature": "sample",
    "--top-p": "sample",
    "--top-k": "sample",
    "--min-p": "sample",
    "--n": "sample",
    "--exploration": "mcts",
    "--simulations": "mcts",
    "--rollouts": "mcts",
    "--children": "mcts",
    "--lookahead-weight": "lookahead",
    "--lookahead-top-k": "lookahead",
    "--chunk-samples": "chunk_beam",
    "--chunk-length": "chunk_beam",
}


@pytest.mark.parametrize(("flag", "value"), REFUSED)
def test_numbers_that_cannot_be_meant_are_refused_by_name(place, capsys, flag, value):
    """Before a model is loaded: the one that is named does not exist."""
    model = str(place / "nowhere")
    given = ["search", "--policy", model, "--prompt", "x", "--method", METHOD_OF.get(flag, "beam"), flag, value]
    given += ["--reference", model] if METHOD_OF.get(flag) in ("lookahead", "chunk_beam") else []
    given += ["--proxy", model, model] if flag == "--alpha" else []
    assert main(given) == 2
    err = capsys.readouterr().err
    assert flag in err or "temperature" in err
    assert "nowhere" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--pool", "0"), ("--pool", "1000000000"), ("--beta", "0"), ("--top-p", "nan"), ("--seed", "-1")],
)
def test_numbers_of_a_sweep_too(place, tmp_path, capsys, flag, value):
    given = ["sweep", "--policy", str(place / "nowhere"), "--prompts", str(place / "prompts.jsonl")]
    given += ["--answer", "text", "--gold", "prompt", "--output", str(tmp_path / "o"), flag, value]
    assert main(given) == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"beta": 0}, "--beta is 0."),
        ({"beta": -0.5}, "--beta is -0.5."),
        ({"beta": math.nan}, "--beta is nan."),
        ({"width": 2.5}, "a whole number"),
        ({"width": "5"}, "--width is '5'."),
        ({"widht": 5}, "Did you mean 'width'"),
        ({"temperature": math.inf, "method": "sample"}, "--temperature is inf"),
    ],
)
def test_python_refuses_what_flags_refuse(place, options, says):
    with pytest.raises(UserError) as refused:
        tokenq.decode(str(place / "policy"), "x", **{"method": "beam", "device": "cpu"} | options)
    assert says in str(refused.value)


def test_one_text_is_one_prompt(place):
    (one,) = tokenq.decode(str(place / "policy"), "Name a prime.", **FEW)
    (same,) = tokenq.decode(str(place / "policy"), ["Name a prime."], **FEW)
    assert one.prompt == "Name a prime."
    assert one.candidates == same.candidates


@pytest.mark.integration
def test_one_conversation_is_one_prompt(place):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    kept = (Message("system", "Be brief."), Message("user", "Hello"))
    found = [tokenq.decode(str(place / "chat"), given, **FEW) for given in (turns, tuple(turns), kept, [turns], [kept])]
    assert all(len(one) == 1 and one[0].prompt == kept for one in found)
    assert len({one[0].candidates for one in found}) == 1
    mixed = tokenq.decode(str(place / "chat"), ["Hello", turns, kept], **FEW)
    assert [one.id for one in mixed] == ["1", "2", "3"]
    assert {mixed[1].candidates[0].token_ids, mixed[2].candidates[0].token_ids} == {found[0][0].candidates[0].token_ids}
    assert list(tokenq.decode(str(place / "chat"), [], **FEW)) == []


@pytest.mark.parametrize(
    "given", [[3], [["a", "b"]], [{"prompt": "x"}, "x"], [{"role": "user"}], [{"role": "nobody", "content": ""}]]
)
def test_what_is_no_prompt_is_named(place, given):
    with pytest.raises(UserError, match="prompt 1"):
        tokenq.decode(str(place / "chat"), given, **FEW)


@pytest.mark.parametrize(
    "options", [{}, {"rollouts": 0}, {"tree_rule": "gumbel"}, {"commit": "token", "simulations": 4}]
)
def test_a_judge_leads_a_tree_at_the_defaults(place, options):
    """Its word ranks, and stands in every number; without it another answer is chosen."""

    settings = {"method": "mcts", "max_new_tokens": 5, "simulations": 12, "device": "cpu"} | options
    (plain,) = tokenq.decode(str(place / "policy"), "The sky is", **settings)

    def judge(prompts, responses):
        """Like what begins in another way than what was chosen."""
        other = [response[:1] != plain.candidates[0].text[:1] for response in responses]
        return [1000.0 + len(response) + 50 * one for response, one in zip(responses, other, strict=True)]

    (judged,) = tokenq.decode(str(place / "policy"), "The sky is", judge=judge, **settings)
    assert judged.objective == "value"
    assert plain.objective == "likelihood"
    assert [one.score for one in judged.candidates] == judge([], [one.text for one in judged.candidates])
    assert judged.candidates[0].score > judge([], [plain.candidates[0].text])[0]
    assert all(1000 <= number < 1100 for number in (*judged.tree.scores, *judged.tree.values))
    assert judged.cost.value_tokens > 0


def test_an_objective_beside_a_judge_is_refused(place):
    with pytest.raises(UserError, match="--objective reward has no effect beside a reward model or a judge"):
        tokenq.decode(str(place / "policy"), "x", judge=lambda p, r: [0.0] * len(r), method="mcts", objective="reward")


def test_a_page_needs_no_file_of_results(place, tmp_path, capsys):
    given = ["search", "--policy", str(place / "policy"), "--prompts", str(place / "prompts.jsonl"), "--width", "2"]
    assert main([*given, "--max-new-tokens", "3", "--device", "cpu", "--html", str(tmp_path / "page.html")]) == 0
    assert "The sky is" in (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert main([*given, "--device", "cpu"]) == 2
    assert "--html results.html" in capsys.readouterr().err


def test_every_token_of_a_candidate_has_its_text(place, tmp_path):
    """Also those of rollouts, of which the tree has no node."""
    given = ["search", "--policy", str(place / "policy"), "--prompts", str(place / "prompts.jsonl"), "--method", "mcts"]
    given += ["--simulations", "3", "--max-new-tokens", "12", "--device", "cpu", "--output", str(tmp_path / "o.jsonl")]
    assert main([*given, "--html", str(tmp_path / "page.html")]) == 0
    for one in read_results(tmp_path / "o.jsonl"):
        for candidate in one.candidates:
            assert len(candidate.pieces) == len(candidate.token_ids)
            assert "".join(candidate.pieces) == candidate.text
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert all(len(c["pieces"]) == len(c["logps"]) for line in lines for c in line["candidates"])


@pytest.mark.integration
def test_a_search_ends_with_the_models_context_and_says_so(tmp_path, capsys):
    """256 learned positions, a prompt of 250 tokens: six tokens are left, whatever --max-new-tokens would allow."""
    tiny_model("gpt2", vocab_size=320).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "gpt2")
    prompt = "x" * 249  # a byte a token, behind BOS
    for method in ("greedy", "beam", "mcts", "sample"):
        (found,) = tokenq.decode(str(tmp_path / "gpt2"), prompt, method=method, device="cpu")
        assert max(len(one.token_ids) for one in found.candidates) == 6
        assert found.stopped == "context"
    given = ["search", "--policy", str(tmp_path / "gpt2"), "--method", "greedy", "--device", "cpu", "--prompt"]
    assert main([*given, prompt]) == 0
    assert "stopped by: context" in capsys.readouterr().out
    assert main([*given, "x" * 255]) == 2
    assert "the prompt has 256 tokens, and the model reads 256 at most" in capsys.readouterr().err
    with pytest.raises(UserError, match="prompt 2: the prompt has 1001 tokens, and the model reads 256 at most"):
        tokenq.decode(str(tmp_path / "gpt2"), ["x", "x" * 1000], method="greedy", device="cpu")
