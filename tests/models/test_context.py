"""The context of a model is that of its configuration, by whatever name that has it."""

import pytest

from tokenq.models.context import context_of
from tokenq.worlds.tiny import tiny_model


@pytest.mark.parametrize(
    ("family", "context"),
    [("gpt2", 256), ("llama", 256), ("gemma3", 256), ("opt", 256), ("mamba", None), ("bloom", None)],
)
def test_contexts_of_families(family, context):
    assert context_of(tiny_model(family)) == context
