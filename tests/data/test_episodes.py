"""Episodes as data: actions as they were sampled, luck taken off, and what cannot be one sequence."""

from dataclasses import replace

import pytest
from data.toy_tokenizers import CHATML, THINKING, bytes_tokenizer

from tokenq.data.bad_rows import BadRowsError
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.stored.texts import from_json, to_json
from tokenq.data.tokenize import refuse_bad, tokenize
from tokenq.records.examples import Action

PLAIN = bytes_tokenizer(bos="<bos>", eos="<eos>")
CHAT = bytes_tokenizer(bos="<bos>", eos="<|im_end|>", chat_template=CHATML)
END = PLAIN.eos_token_id


def ids(text, tokenizer=PLAIN):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def row(number, actions, given=1.0, **more):
    turns = [
        {"observation": f"{place}?", "action": action, "action_ids": [*ids(action), END], "reward": 0.0}
        for place, action in enumerate(actions)
    ]
    values = {"turns": turns, "return": given, "seed": 3, "terminal": True, "luck": 0.0, "error": None, "tools": []}
    return Row(values | more, f"row {number}")


def groups(rows, selection="responses", tokenizer=PLAIN, **more):
    read = read_examples(rows, selection=selection)
    return tokenize(read.examples, tokenizer, max_length=None, dropped=read.dropped, **more), read


def test_an_episode_is_its_actions_as_they_were_sampled():
    data, _ = groups([row(1, ["go", "up"])], with_texts=True)
    (group,) = data.groups
    (one,) = group.responses
    assert PLAIN.decode(group.prompt_ids) == "<bos>0?\n> "
    assert PLAIN.decode(one.ids) == "go<eos>\n1?\n> up<eos>"
    own = [*[True] * 3, *[False] * len(ids("\n1?\n> ")), *[True] * 3]
    assert (one.mask.tolist(), one.terminal) == (own, True)
    ((text,),) = data.texts
    assert (text.prompt, text.text) == ("0?\n> ", "go\n1?\n> up")
    assert text.ends[:4].tolist() == [1, 2, 2, 3]


def test_ids_of_another_tokenizer_are_made_anew():
    (one,) = groups([row(1, ["go"])])[0].groups[0].responses
    other = row(1, ["go"])
    other.values["turns"][0]["action_ids"] = [*ids("up"), END]
    bare = row(1, ["go"])
    del bare.values["turns"][0]["action_ids"]
    for given in (other, bare):
        (again,) = groups([given])[0].groups[0].responses
        assert again.ids.tolist() == one.ids.tolist()


def test_two_episodes_that_begin_alike_are_a_pair_by_return_without_luck():
    """3 − 2.5 of luck is less than 1."""
    rows = [row(1, ["go"], 3.0, luck=2.5), row(2, ["up"], 1.0)]
    (pair,) = groups(rows, "pairs")[0].groups
    assert [PLAIN.decode(one.ids[:2]) for one in pair.responses] == ["up", "go"]
    assert len(groups(rows)[0].groups) == 2  # each is imitated
    apart = [row(1, ["go"], 3.0), row(2, ["up"], 1.0)]
    apart[1].values["turns"][0]["observation"] = "another"
    read = read_examples([*apart, row(3, ["a"]), row(4, ["b"], 2.0)], selection="pairs")
    assert (len(read.examples), read.dropped["fewer than two rated responses"]) == (1, 2)


def test_episodes_that_failed_are_counted():
    read = read_examples([row(1, ["go"]), row(2, ["up"], error="it broke"), row(3, [])], selection="responses")
    assert (len(read.examples), read.dropped) == (1, {"episode that failed": 2})


def test_a_chat_template_writes_what_is_said():
    given = row(1, ["go", "up"], instructions="Play.")
    (group,) = groups([given], tokenizer=CHAT)[0].groups
    (one,) = group.responses
    said = CHAT.decode(group.prompt_ids)
    assert "Play." in said
    assert said.endswith("<|im_start|>assistant\n")
    assert CHAT.decode(one.ids[one.mask]) == "go<|im_end|>up<|im_end|>"


def test_a_template_that_rewrites_the_past_is_no_single_sequence():
    thinking = bytes_tokenizer(bos="<bos>", eos="<|im_end|>", chat_template=THINKING)
    with pytest.raises(BadRowsError, match="writes the past of an episode anew"):
        refuse_bad(groups([row(1, ["<think>a</think>go", "up"]), row(2, ["go"])], tokenizer=thinking)[0])


def test_actions_keep_their_tokens_on_the_way_to_other_processes():
    (example,) = groups([row(1, ["go", "up"])])[1].examples
    ((_, again),) = from_json(to_json([(1, example)]))
    assert again == example
    assert [type(turn) is Action for turn in again.responses[0].content] == [True, False, True]
    assert replace(again.responses[0].content[0], token_ids=()) != example.responses[0].content[0]
