"""Whatever one row can do wrong is a bad row: named, the first of the file first, or left out and counted."""

import json

import pytest
from toy_tokenizers import CHATML, bytes_tokenizer

from tokenq.data.bad_rows import BadRowsError, first_named
from tokenq.data.examples import read_examples
from tokenq.data.prompts import encode_prompts, load_prompts, usable_prompts
from tokenq.data.sources import load_examples
from tokenq.data.tokenize import refuse_bad, tokenize
from tokenq.errors import UserError, fitting

STRICT = "{% for m in messages %}{% if not loop.first and m.role == messages[loop.index0 - 1].role %}" + (
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)
TOKENIZER = bytes_tokenizer(eos="<|im_end|>", chat_template=STRICT)


def user(*texts):
    return [{"role": "user", "content": text} for text in texts]


def said(text):
    return [{"role": "assistant", "content": text}]


def pair(number, prompt=None, chosen=None, **more):
    return {
        "prompt": prompt or user(f"q{number}"),
        "chosen": said(chosen or f"yes {number}"),
        "rejected": said("no"),
        **more,
    }


WRONG = {
    "refused": (pair(9, user("a", "b")), "the chat template refuses the conversation .*roles must alternate"),
    "half in a response": (pair(9, chosen="cut \ud83d"), r"the text holds \\ud83d, half of a surrogate pair"),
    "half in a prompt": (pair(9, user("cut \udc00")), r"the text holds \\udc00"),
    "half in an argument": (pair(9, tools=[{"name": "\ud83d"}]), None),
    "ended inside": (pair(9, chosen="a <|im_end|> b"), r"goes on after '<\|im_end\|>', which ends it"),
    "the same": (pair(9, chosen="no"), "chosen equals rejected"),
    "the same with blanks": (pair(9, chosen="no <|im_end|>") | {"rejected": said("no ")}, "chosen equals rejected"),
    "empty": (pair(9) | {"chosen": said("")}, "the chosen response is empty"),
    "a column": (pair(9) | {"rejected": None}, "column 'rejected' is empty"),
    "a picture": (pair(9, images=["a.png"]), "column 'images' changes what the row means"),
    "a template's error": (pair(9, chat_template_kwargs={"messages": "x"}), "may not set 'messages'"),
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(source, bad_rows):
    """Return the data as a command does: read, then in tokens."""

    def encode(examples, **account):
        data = tokenize(examples, TOKENIZER, max_length=None, **account)
        if bad_rows == "error":
            refuse_bad(data)
        return data

    with first_named(encode):
        found = load_examples([source], lambda rows: read_examples(rows, bad_rows=bad_rows))
    return encode(found.examples, rows=found.rows, dropped=found.dropped)


@pytest.mark.parametrize("name", [name for name in WRONG if WRONG[name][1]])
def test_one_wrong_row_is_named_or_left_out(name, tmp_path):
    row, detail = WRONG[name]
    source = write(tmp_path / "a.jsonl", pair(0), pair(1), row, pair(2))
    with pytest.raises(BadRowsError, match=f"a.jsonl, row 3: .*{detail}") as caught:
        read(source, "error")
    assert "--bad-rows drop" in str(caught.value)
    data = read(source, "drop")
    assert [group.where[-5:] for group in data.groups] == ["row 1", "row 2", "row 4"]
    assert (data.summary.rows, sum(data.summary.dropped.values())) == (4, 1)


@pytest.mark.parametrize("first", ["refused", "ended inside", "empty", "a column", "half in a response"])
@pytest.mark.parametrize("second", ["refused", "the same", "a column", "a picture"])
def test_the_first_in_the_file_is_named_whatever_stage_finds_it(first, second, tmp_path):
    rows = pair(0), WRONG[first][0], pair(1), WRONG[second][0]
    with pytest.raises(BadRowsError, match=f"a.jsonl, row 2: .*{WRONG[first][1]}"):
        read(write(tmp_path / "a.jsonl", *rows), "error")


def test_all_of_two_sources_count_for_the_first(tmp_path):
    one = write(tmp_path / "a.jsonl", pair(0), WRONG["refused"][0])
    two = write(tmp_path / "b.jsonl", WRONG["a column"][0])
    with (
        pytest.raises(BadRowsError, match=r"a\.jsonl, row 2"),
        first_named(lambda examples: refuse_bad(tokenize(examples, TOKENIZER, max_length=None))),
    ):
        load_examples([one, two], read_examples)


def test_a_named_column_that_one_row_lacks_is_a_bad_row(tmp_path):
    source = write(tmp_path / "a.jsonl", pair(0, good=said("a")), pair(1), pair(2, good=said("b")))
    read_as = {"columns": {"chosen": "good"}}
    with pytest.raises(UserError, match=r"a\.jsonl, row 2: Unknown column 'good'"):
        load_examples([source], lambda rows: read_examples(rows, **read_as))
    found = load_examples([source], lambda rows: read_examples(rows, bad_rows="drop", **read_as))
    assert (len(found.examples), found.dropped) == (2, {"a missing column": 1})
    with pytest.raises(UserError, match="row 1: Unknown column 'better'"):
        load_examples([source], lambda rows: read_examples(rows, bad_rows="drop", columns={"chosen": "better"}))


EOS_ROWS = {
    "plain, at the end": ({"prompt": "q", "chosen": " a <eos>", "rejected": " b"}, " a <eos>"),
    "plain, twice at the end": ({"prompt": "q", "chosen": " a<eos><eos>", "rejected": " b"}, " a<eos>"),
    "plain, in the prompt": ({"prompt": "x<eos> q", "chosen": " a", "rejected": " b"}, " a<eos>"),
    "plain, inside": ({"prompt": "q", "chosen": " a <eos> c", "rejected": " b"}, None),
    "chat, at the end": ({"prompt": user("q"), "chosen": said("a<eos>"), "rejected": said("b")}, "a<eos>"),
    "chat, in the prompt": ({"prompt": user("x<eos> q"), "chosen": said("a"), "rejected": said("b")}, "a<eos>"),
    "chat, inside": ({"prompt": user("q"), "chosen": said("a<eos> c"), "rejected": said("b")}, None),
}


@pytest.mark.parametrize("name", EOS_ROWS)
def test_one_rule_for_eos_in_text(name, tmp_path):
    """A response ends at its first EOS: text behind it makes a bad row; in a prompt, EOS is what it says."""
    row, response = EOS_ROWS[name]
    tokenizer = bytes_tokenizer(eos="<eos>", chat_template=CHATML.replace("<|im_end|>", "<eos>"))
    (example,) = load_examples([write(tmp_path / "a.jsonl", row)], read_examples).examples
    if response is None:
        with pytest.raises(UserError, match=r"row 1: .*goes on after '<eos>'"):
            tokenize([example], tokenizer, max_length=None)
        return
    (group,) = tokenize([example], tokenizer, max_length=None).groups
    assert tokenizer.decode(group.responses[0].ids) == response
    if "prompt" in name:
        assert tokenizer.eos_token_id in group.prompt_ids.tolist()


def test_an_empty_prompt_is_bos_and_line_breaks_are_a_response(tmp_path):
    rows = [{"prompt": "", "chosen": " a", "rejected": "\n\n"}]
    (example,) = load_examples([write(tmp_path / "a.jsonl", *rows)], read_examples).examples
    tokenizer = bytes_tokenizer(bos="<bos>")
    data = tokenize([example], tokenizer, max_length=None)
    assert tokenizer.decode(data.groups[0].prompt_ids) == "<bos>"
    assert [tokenizer.decode(one.ids) for one in data.groups[0].responses] == [" a<eos>", "\n\n<eos>"]
    assert "1 without a prompt" in data.summary.line()
    with pytest.raises(UserError, match="the prompt has none, and the tokenizer writes no BOS"):
        tokenize([example], bytes_tokenizer(), max_length=None)


PROMPTS = {
    "two turns": {"prompt": user("a", "b")},
    "half a character": {"prompt": "cut \ud83d"},
    "half a character in the id": {"id": "\ud83d", "prompt": "q"},
    "an id twice": {"id": "0", "prompt": "q"},
    "an id that is a list": {"id": [1], "prompt": "q"},
    "no prompt": {"ask": "q"},
    "a picture": {"prompt": "q", "image": "a.png"},
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_that_cannot_be_searched_is_a_bad_row(name, tmp_path):
    source = write(tmp_path / "p.jsonl", {"id": "0", "prompt": "q"}, PROMPTS[name], {"prompt": "r"})

    def run(bad_rows):
        return usable_prompts(load_prompts([source], style="chat", bad_rows=bad_rows), TOKENIZER, bad_rows)

    with pytest.raises(BadRowsError, match=r"p\.jsonl, row 2: "):
        run("error")
    found = run("drop")
    assert [prompt.id for prompt in found.prompts] == ["0", "3"]  # numbers are those of the rows
    assert (found.rows, found.dropped.total()) == (3, 1)
    assert found.line().startswith("3 rows: 2 prompts; dropped 1 (1 ")


def test_ids_that_are_not_there_are_numbers(tmp_path):
    rows = [
        {"id": None, "prompt": "a"},
        {"id": float("nan"), "prompt": "b"},
        {"id": 7.0, "prompt": "c"},
        {"prompt": "d"},
    ]
    assert [one.id for one in load_prompts([write(tmp_path / "p.jsonl", *rows)]).prompts] == ["1", "2", "7", "4"]


def test_an_empty_prompt_is_searched_from_bos(tmp_path):
    source = write(tmp_path / "p.jsonl", {"prompt": ""})
    tokenizer = bytes_tokenizer(bos="<bos>")
    assert encode_prompts(load_prompts([source]).prompts, tokenizer) == [(tokenizer.bos_token_id,)]
    with pytest.raises(BadRowsError, match="row 1: the prompt has no tokens"):
        encode_prompts(load_prompts([source]).prompts, bytes_tokenizer())


def test_a_hint_names_only_flags_that_the_command_has():
    hint = "Mend the row[, or give another template with --chat-template FILE]. A slice is [1:2]."
    assert fitting(hint, {"--data"}) == "Mend the row. A slice is [1:2]."
    full = "Mend the row, or give another template with --chat-template FILE. A slice is [1:2]."
    assert fitting(hint, {"--chat-template"}) == full == fitting(hint)
    assert str(UserError("No.", hint)) == f"No.\n  {full}"
