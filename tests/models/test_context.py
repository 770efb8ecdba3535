"""The context of a model is that of its configuration, by whatever name that has it."""

import pytest

from tokenq.models.context import context_of, least_context
from tokenq.worlds.tiny import tiny_model


@pytest.mark.parametrize(
    ("family", "context"),
    [("gpt2", 256), ("llama", 256), ("gemma3", 256), ("opt", 256), ("mamba", None), ("bloom", None)],
)
def test_contexts_of_families(family, context):
    assert context_of(tiny_model(family)) == context


def test_models_that_read_together_hold_what_the_smallest_holds():
    wide = tiny_model("llama")
    wide.config.max_position_embeddings = 1000
    assert least_context([wide, tiny_model("mamba"), tiny_model("gpt2")]) == 256
    assert least_context([tiny_model("mamba")]) is None
