"""Two models that must speak of the same tokens."""

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.errors import UserError
from tokenq.models.tokenizer import check_tokenizers, check_vocabularies, same_tokens


class Words:
    """A tokenizer as far as its vocabulary goes."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def get_vocab(self):
        return self.vocabulary

    def get_added_vocab(self):
        return {}


def test_vocabularies_of_different_size():
    policy = tiny_model("llama")
    check_vocabularies(policy, tiny_model("llama", vocab_size=288 + 64))  # padded
    with pytest.raises(UserError, match="policy has a vocabulary of 288 tokens, the reference one of 2000"):
        check_vocabularies(policy, tiny_model("llama", vocab_size=2000))


def test_the_same_tokenizer_with_added_tokens_on_either_side():
    own, more = tiny_tokenizer(), tiny_tokenizer()
    more.add_tokens(["<tool>", "</tool>"])
    check_tokenizers(own, more)
    check_tokenizers(more, own)


def test_the_same_tokens_under_other_ids():
    with pytest.raises(UserError, match=r"2 tokens have other ids .*: 'a' is 0 in the policy and 1 in the reference"):
        check_tokenizers(Words({"a": 0, "b": 1, "c": 2}), Words({"a": 1, "b": 0, "c": 2}))


def test_merges_that_the_other_does_not_know():
    """Ids of all shared tokens are the same, but texts are cut otherwise."""
    assert not same_tokens(tiny_tokenizer("bpe"), tiny_tokenizer("bytes"))


def test_other_tokens_altogether():
    ours, theirs = ({f"{name}{n}": n + start for n in range(2000)} for name, start in (("x", 0), ("y", 0)))
    with pytest.raises(UserError, match="does not know 2000 tokens of the policy, such as 'x0'"):
        check_tokenizers(Words(ours), Words(theirs))
