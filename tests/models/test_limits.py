"""What a model can be given, read off its layers, and what is refused before anything is computed."""

import numpy as np
import pytest
from tiny import VOCAB_SIZE, tiny_model

from tokenq.errors import UserError
from tokenq.models.limits import BeyondContext, ModelLimits, least_context, refuse_beyond, refuse_tokens
from tokenq.records.examples import TokenGroup, TokenResponse


def row(prompt, response, token=7):
    ids = np.full(response, token, np.int32)
    return TokenGroup(
        np.full(prompt, 5, np.int32), (TokenResponse(ids, np.ones(response, bool), True),), False, "row 3"
    )


@pytest.mark.parametrize(
    ("family", "context", "learned"),
    [
        ("gpt2", 256, True),
        ("opt", 256, True),
        ("llama", 256, False),
        ("gemma3", 256, False),
        ("gpt_neox", 256, False),
        ("bloom", None, False),
        ("mamba", None, False),
    ],
)
def test_positions_and_rows_of_each_family(family, context, learned):
    """GPT-2 and OPT look positions up in a table, rotary models compute them, Bloom and Mamba have none."""
    assert ModelLimits.of(tiny_model(family)) == ModelLimits(context, learned, VOCAB_SIZE)


def test_a_row_beyond_the_table_of_positions_is_refused_with_both_numbers():
    limits = ModelLimits(256, True, 288)
    assert refuse_beyond(limits, [row(200, 56)], "gpt2") is None
    with pytest.raises(UserError, match=r"row 3 has 257 tokens, and gpt2 has 256 positions.\n  Give --max-length 256"):
        refuse_beyond(limits, [row(2, 3), row(200, 57)], "gpt2")


def test_a_row_beyond_a_rotary_context_is_warned_of():
    assert refuse_beyond(ModelLimits(256, False, 288), [row(200, 57)], "llama").startswith(
        "row 3 has 257 tokens, and llama was made for 256"
    )


def test_a_row_many_times_a_rotary_context_is_refused():
    limits = ModelLimits(256, False, 288)
    assert refuse_beyond(limits, [row(8 * 256 - 7, 7)], "llama") is not None
    with pytest.raises(BeyondContext, match=r"has 2049 tokens, and llama was made for 256"):
        refuse_beyond(limits, [row(8 * 256 - 6, 7)], "llama")


def test_a_token_that_the_embedding_does_not_have_is_refused_with_both_sizes():
    with pytest.raises(UserError, match=r"row 3 has token 288, and the embedding of m has 288 rows"):
        refuse_beyond(ModelLimits(None, False, 288), [row(2, 3, token=287), row(2, 3, token=288)], "m")
    with pytest.raises(UserError, match=r"prompts:4 has token 290, and the embedding of m has 288 rows"):
        refuse_tokens((ModelLimits(None, False, 288), "m"), [3, 290], "prompts:4")


def test_models_that_read_together_hold_what_the_smallest_holds():
    wide = tiny_model("llama")
    wide.config.max_position_embeddings = 1000
    assert least_context([wide, tiny_model("mamba"), tiny_model("gpt2")]) == 256
    assert least_context([tiny_model("mamba")]) is None
