"""Whether two models speak of the same tokens."""

from torch import nn
from transformers import PreTrainedTokenizerBase

from tokenq.errors import UserError
from tokenq.models.forward.packed_lm import bare

SLACK = 1024
"""Rows by which vocabularies may differ: embeddings padded to a round number, a few added tokens."""

_HINT = "Both must share one tokenizer; take the model that the policy was trained from as reference."


def check_vocabularies(policy: nn.Module, reference: nn.Module) -> None:
    """Raise a UserError when the two models give log-probs to vocabularies of different size.

    Embeddings padded to a round number of rows are no mismatch as long as both cover the tokenizer.
    """
    sizes = [bare(model).config.get_text_config().vocab_size for model in (policy, reference)]
    if abs(sizes[0] - sizes[1]) > SLACK:
        raise UserError(f"The policy has a vocabulary of {sizes[0]} tokens, the reference one of {sizes[1]}.", _HINT)


def check_tokenizers(policy: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase) -> None:
    """Raise a UserError when the two tokenizers give different ids to the same token, or know different tokens."""
    difference = _difference(policy, reference)
    if difference:
        raise UserError(difference, _HINT)


def same_tokens(policy: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase) -> bool:
    """Return whether token ids mean the same to both; a few added tokens on either side are no difference."""
    return not _difference(policy, reference)


def _difference(policy: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase) -> str:
    """Return what sets two tokenizers apart, "" when nothing does."""
    if policy is reference:
        return ""
    ours, theirs = policy.get_vocab(), reference.get_vocab()
    moved = [token for token, number in ours.items() if theirs.get(token, number) != number]
    if moved:
        token = moved[0]
        ids = f"{token!r} is {ours[token]} in the policy and {theirs[token]} in the reference"
        return f"{len(moved)} tokens have other ids in the reference than in the policy: {ids}."
    unknown = ours.keys() - theirs.keys() - policy.get_added_vocab().keys()
    if unknown:
        return f"The reference does not know {len(unknown)} tokens of the policy, such as {min(unknown)!r}."
    return ""
