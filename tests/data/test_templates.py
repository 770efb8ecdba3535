"""Chat templates of the wild: which tokens are the prompt's, which are learnt, and where each turn ends."""

import re
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec

import pytest
from toy_tokenizers import CHATML, HEADERS, MARKED, bytes_tokenizer

from tokenq.data.tokenize import tokenize
from tokenq.records.examples import ContextMessage, Example, Message, Response

OPENED = CHATML.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
"""The header opens thoughts, as those of reasoning models do; turns are written as they are."""

FORGETFUL = OPENED.replace("m.content + '<|im_end|>'", "m.content.split('</think>')[-1].lstrip() + '<|im_end|>'")
"""As that, and every turn loses its thoughts, the last one too."""

FORGETFUL_UNOPENED = CHATML.replace("m.content + '<|im_end|>'", "m.content.split('</think>')[-1] + '<|im_end|>'")

EMPTY_THOUGHTS = OPENED.replace(
    "m.content + '<|im_end|>'",
    "('<think>\\n\\n</think>\\n\\n' if m.role == 'assistant' and loop.last and '<think>' not in m.content else '')"
    " + m.content + '<|im_end|>'",
)
"""The last turn gets empty thoughts where it has none."""

LAST_CLOSED = (
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}"
    "{% if loop.last and m.role == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
"""Only the last turn is ended."""

NEXT_CLOSES = (
    "{% for m in messages %}"
    "{% if not loop.first and messages[loop.index0 - 1].role == 'assistant' %}{{ 'END' }}{% endif %}"
    "{{ '[' + m.role + ']' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
"""A turn is ended when the next begins; END is a token."""

UNCLOSED = CHATML.replace("+ '<|im_end|>' + '\\n'", "+ '\\n'")
"""No turn is ended; a header begins with a token."""

DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}" + CHATML

QUESTION = (Message("user", "q"),)
TALK = (Message("assistant", "one"), Message("user", "two"), Message("assistant", "three"))


def learnt(template, content, prompt=QUESTION, eos="<|im_end|>", context=None):
    """Return (prompt, response, what of it is learnt, summary) as text."""
    tokenizer = bytes_tokenizer(eos=eos, chat_template=template)
    content = (Message("assistant", content),) if isinstance(content, str) else content
    data = tokenize([Example(prompt, (Response(content),), False, "row 1", context or {})], tokenizer, max_length=None)
    (group,) = data.groups
    (response,) = group.responses
    texts = [tokenizer.decode(ids) for ids in (group.prompt_ids, response.ids, response.ids[response.mask])]
    return *texts, data.summary


HEADER = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "content", "prompt", "response"),
    [
        # A response without thoughts is what the template writes: the prompt ends before those that the header opens.
        (OPENED, "yes", HEADER, "yes<|im_end|>"),
        (FORGETFUL, "yes", HEADER, "yes<|im_end|>"),
        (EMPTY_THOUGHTS, "yes", f"{HEADER}<think>\n", "\n</think>\n\nyes<|im_end|>"),
        # A response with thoughts goes on behind the header that opened them, as in decoding.
        (OPENED, "<think>\nso\n</think>\n\nyes", f"{HEADER}<think>\n", "so\n</think>\n\nyes<|im_end|>"),
        (EMPTY_THOUGHTS, "<think>\nso\n</think>\n\nyes", f"{HEADER}<think>\n", "so\n</think>\n\nyes<|im_end|>"),
        # Thoughts of the response are kept where the template would drop them.
        (FORGETFUL, "<think>\nso\n</think>\n\nyes", f"{HEADER}<think>\n", "so\n</think>\n\nyes<|im_end|>"),
        (FORGETFUL, "so\n</think>\n\nyes", f"{HEADER}<think>\n", "so\n</think>\n\nyes<|im_end|>"),
        (FORGETFUL_UNOPENED, "<think>so</think>yes", HEADER, "<think>so</think>yes<|im_end|>"),
    ],
)
def test_a_header_that_opens_thoughts(template, content, prompt, response):
    assert learnt(template, content)[:3] == (prompt, response, response)


def test_thoughts_of_earlier_turns_are_dropped_as_in_decoding():
    prompt = (*QUESTION, Message("assistant", "<think>\nhm\n</think>\n\none"), Message("user", "two"))
    found = learnt(FORGETFUL, "<think>\nso\n</think>\n\nyes", prompt)
    begun = f"{HEADER}one<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert found[:3] == (begun, "so\n</think>\n\nyes<|im_end|>", "so\n</think>\n\nyes<|im_end|>")


@pytest.mark.parametrize(
    ("template", "eos", "whole", "own"),
    [
        (CHATML, "<|im_end|>", None, "one<|im_end|>three<|im_end|>"),
        (MARKED, "<|im_end|>", None, "one<|im_end|>three<|im_end|>"),
        (HEADERS, "<eos>", "one<|eot|>[user]two<|eot|>[assistant]three<|eot|><eos>", "one<|eot|>three<|eot|><eos>"),
        (LAST_CLOSED, "<eos>", "one[user]two[assistant]three<eos>", "onethree<eos>"),
        (
            NEXT_CLOSES.replace("END", "<|eot|>"),
            "<eos>",
            "one<|eot|>[user]two[assistant]three<eos>",
            "one<|eot|>three<eos>",
        ),
        (NEXT_CLOSES.replace("END", "<eos>"), "<eos>", "one<eos>[user]two[assistant]three<eos>", "one<eos>three<eos>"),
        (OPENED, "<|im_end|>", None, "one<|im_end|>three<|im_end|>"),
        (
            UNCLOSED,
            "<eos>",
            "one\n<|im_start|>user\ntwo\n<|im_start|>assistant\nthree<eos>",
            "onethree<eos>",
        ),
    ],
)
def test_every_turn_of_the_assistant_is_learnt_to_its_end(template, eos, whole, own):
    _, response, found, summary = learnt(template, TALK, eos=eos)
    assert whole is None or response == whole
    assert found == own
    assert summary.rewritten_turns == 0


@pytest.mark.parametrize("template", [CHATML, MARKED, LAST_CLOSED, NEXT_CLOSES.replace("END", "<|im_end|>")])
def test_a_turn_that_is_not_to_be_learnt_is_masked(template):
    turns = (*TALK[:2], ContextMessage("assistant", "three"), Message("user", "four"), Message("assistant", "five"))
    found = learnt(template, turns)[2]
    assert "three" not in found
    assert re.sub(r"<\|im_end\|>|<eos>", "", found) == "onefive"
    assert learnt(template, (ContextMessage("assistant", "one"), *TALK[1:]))[2].startswith("three")


def test_a_date_is_the_same_every_day():
    prompt, *_, summary = learnt(DATED, "yes")
    assert prompt.startswith("Today: 26 Jul 2024\n")
    assert summary.dated == 1
    assert "1 with a date (always 26 Jul 2024)" in summary.line()
    own = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    own += "{{ date_string }}"
    assert learnt(own + CHATML, "yes", context={"date_string": "1 May 2030"})[0].startswith("1 May 2030")
    assert learnt(CHATML, "yes")[3].dated == 0


def trl_templates():
    """Return the templates of models that TRL brings along, by name: as published, without its own for training.

    None, and the test is skipped, where it is not installed (extra `bench`).
    """
    if find_spec("trl") is None:
        return {}
    found = files("trl").joinpath("chat_templates").iterdir()
    texts = [(one.name.removesuffix(".jinja"), one) for one in found if one.name.endswith(".jinja")]
    return {name: one.read_text() for name, one in texts if not re.search(r"training|_vl|idefics|llava|smolvlm", name)}


@pytest.mark.parametrize("name", sorted(trl_templates()))
def test_published_templates(name):
    """A turn stands behind the header, what is learnt begins with it and holds no word of anybody else."""
    tokenizer = bytes_tokenizer(bos="<bos>", chat_template=trl_templates()[name])
    rows = [
        Example(QUESTION, (Response(TALK[2:]),), False, "row 1"),
        Example(QUESTION, (Response(TALK),), False, "row 2"),
    ]
    data = tokenize(rows, tokenizer, max_length=None)
    assert not data.bad
    for group, words in zip(data.groups, ("three", "onethree"), strict=True):
        (response,) = group.responses
        own = tokenizer.decode(response.ids[response.mask])
        own = re.sub(r"<\|?/?[\w▁｜]+\|?>|<｜[^｜]*｜>|\s|<\|[A-Z_]+\|>|final|to=user", "", own)
        assert "two" not in own
        assert own == words
        whole = tokenizer.decode([*group.prompt_ids, *response.ids])
        assert whole.count("three") == 1


def test_the_rows_of_both_sides_share_a_prompt_though_one_has_thoughts():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=FORGETFUL)
    sides = [(Message("assistant", text),) for text in ("<think>\nso\n</think>\n\nyes", "no")]
    example = Example(QUESTION, tuple(map(Response, sides)), True, "row 1")
    (group,) = tokenize([example], tokenizer, max_length=None).groups
    assert tokenizer.decode(group.prompt_ids) == HEADER
    texts = [tokenizer.decode(response.ids) for response in group.responses]
    assert texts == ["<think>\nso\n</think>\n\nyes<|im_end|>", "no<|im_end|>"]
    both = replace(example, responses=tuple(map(Response, sides[:1])) * 2)
    assert tokenize([both, example], tokenizer, max_length=None).summary.dropped == {"chosen equals rejected": 1}
