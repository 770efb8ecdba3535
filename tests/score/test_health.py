"""What is said about rows and pairs of models that cannot be read as they look."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import CHATML, tiny_tokenizer
from tokenizers import AddedToken
from trace_builders import make_trace

from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.score.health import FAR_APART, pair_warnings, row_warnings

TURNS = (
    "{% for m in messages %}{{ '<start>' + m.role + '\n' + m.content + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>model\n' }}{% endif %}"
)
PLAIN_MARKS = (
    "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
WRAPPED = "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endfor %}"

CUT = "a response was cut or has no EOS: its totals lack the credit of its end"
BARE = "the tokenizer has a chat template, and this prompt does not use it"


def chat_tokenizer(template):
    """Return a tokenizer whose marks of turns are special without being listed as such, as some models have them."""
    tokenizer = tiny_tokenizer("bytes")
    tokenizer.add_tokens(
        [AddedToken(mark, special=True) for mark in ("<start>", "<end>", "<|im_start|>", "<|im_end|>")]
    )
    tokenizer.chat_template = template
    return tokenizer


def group(prompt_ids, *terminal):
    one = np.array([5, 6], np.int32)
    responses = tuple(TokenResponse(one, np.array([True, True]), end) for end in terminal)
    return TokenGroup(np.array(prompt_ids, np.int32), responses, False, "row 1")


def prompt_of(tokenizer, *, templated):
    if not templated:
        return tokenizer("What is it?")["input_ids"]
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is it?"}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(said)["input_ids"]


def test_a_row_like_any_other_has_no_warning():
    tokenizer = chat_tokenizer(None)
    assert row_warnings(group(prompt_of(tokenizer, templated=False), True, True), tokenizer) == ()


def test_a_cut_response_is_said_to_be_cut():
    tokenizer = chat_tokenizer(None)
    assert row_warnings(group([5], True, False), tokenizer) == (CUT,)
    assert row_warnings(group([5], False), tokenizer) == (CUT,)


@pytest.mark.parametrize("template", [CHATML, TURNS, PLAIN_MARKS, WRAPPED])
def test_a_prompt_that_does_not_use_the_template_is_told(template):
    """The marks of a template may be special tokens that the tokenizer does not list, or plain text."""
    tokenizer = chat_tokenizer(template)
    assert row_warnings(group(prompt_of(tokenizer, templated=True), True), tokenizer) == ()
    assert row_warnings(group(prompt_of(tokenizer, templated=False), True), tokenizer) == (BARE,)
    assert row_warnings(group(prompt_of(tokenizer, templated=False), False), tokenizer) == (CUT, BARE)


@pytest.mark.parametrize(
    "template",
    ["{% for m in messages %}{{ m.content }}{% endfor %}", "{{ raise_exception('a system turn comes first') }}"],
)
def test_where_it_cannot_be_told_nothing_is_said(template):
    tokenizer = chat_tokenizer(template)
    assert row_warnings(group(prompt_of(chat_tokenizer(None), templated=False), True), tokenizer) == ()


def with_kls(*kls):
    trace = make_trace(*[("a", 0.1)] * len(kls))
    return replace(trace, tokens=tuple(replace(token, kl=kl) for token, kl in zip(trace.tokens, kls, strict=True)))


def test_models_that_are_far_apart_are_doubted():
    """Means by hand: (0.1 + 0.5 + 1.5) / 3 = 0.7, over all tokens of all traces."""
    assert pair_warnings([with_kls(0.1, 0.5), with_kls(1.5)])[0].startswith(
        "policy and reference are 0.70 nats per token"
    )
    assert pair_warnings([with_kls(0.1, 0.5, None), with_kls(0.9)]) == []  # 0.5 is not more than that
    assert pair_warnings([with_kls(FAR_APART + 0.01)])


def test_without_divergences_nothing_is_said():
    assert pair_warnings([]) == []
    assert pair_warnings([with_kls(None, None)]) == []


def test_a_mark_of_the_template_in_a_bare_prompt_is_not_its_header():
    tokenizer = chat_tokenizer(CHATML)
    assert row_warnings(group(tokenizer("What is it?<|im_end|>")["input_ids"], True), tokenizer) == (BARE,)
