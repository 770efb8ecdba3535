"""Score texts with a reward model: one number for a prompt with its response, larger is better."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenq.core.packing import pack, plan_pass
from tokenq.errors import UserError
from tokenq.models.classifier import ENDS_IN_EOS, NoTokenHead, read_classifier
from tokenq.models.forward.packed_lm import bare
from tokenq.models.forward.reward_lm import RewardLM, output_weights, outputs_of
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_reward_model
from tokenq.models.tokenizer import any_tokenizer
from tokenq.records.examples import Message, Text, TokenGroup, TokenResponse

TokenRows = Sequence[Sequence[int]]
"""Token ids of texts that begin alike."""


class RewardModel:
    """Scores responses: a classifier of transformers, read at the last token of each.

    Args:
        spec: what to load.
        weights: of its outputs by name, where it has several; their weighted sum is the reward.
        tokens_per_batch: most tokens in one forward.

    Raises:
        UserError: there is no such model, or its outputs are several and nobody says what each weighs.
    """

    def __init__(
        self, spec: ModelSpec, weights: Mapping[str, str | float] | None = None, tokens_per_batch: int = 4096
    ) -> None:
        self._read, model, self._weights = _reader(spec, weights, tokens_per_batch)
        self.attributes = tuple(outputs_of(model))
        self._tokenizer = any_tokenizer(spec)
        self._ends_in_eos = bool(model.config.to_dict().get(ENDS_IN_EOS))

    def score(
        self, prompts: Sequence[Text], responses: Sequence[str], complete: Sequence[bool] | None = None
    ) -> list[float]:
        """Return the reward of each response to its prompt.

        Turns go through the reward model's own chat template; text is joined as it is. A model that tokenq has trained
        read its responses at their EOS, and does so here. The beginning of a response is read at its last token:
        nothing ends its turn, and no EOS stands behind it.

        Args:
            prompts: one for each response.
            responses: the texts.
            complete: whether each response has come to its end; None: all have.
        """
        every = self.outputs(prompts, responses, self.attributes, complete)
        return [float(one @ torch.tensor(self._weights)) for one in every]

    def outputs(
        self,
        prompts: Sequence[Text],
        responses: Sequence[str],
        names: Sequence[str],
        complete: Sequence[bool] | None = None,
    ) -> Tensor:
        """Return [N, A] some outputs of each response, read as `score` reads them.

        Args:
            prompts: one for each response.
            responses: the texts.
            names: of outputs that the model has.
            complete: whether each response has come to its end; None: all have.
        """
        ended = [True] * len(responses) if complete is None else complete
        rows: dict[Any, list[list[int]]] = {}
        places: list[tuple[Any, int]] = []
        for prompt, response, whole in zip(prompts, responses, ended, strict=True):
            own = prompt if isinstance(prompt, str) else tuple(prompt)
            places.append((own, len(rows.setdefault(own, []))))
            rows[own].append(text_ids(self._tokenizer, prompt, response, ended=whole, eos=self._ends_in_eos))
        found = dict(zip(rows, self._read(list(rows.values())), strict=True))
        columns = [self.attributes.index(name) for name in names]
        if not places:
            return torch.zeros(0, len(columns))
        return torch.stack([found[own][place].cpu().float()[columns] for own, place in places])


def text_ids(tokenizer: PreTrainedTokenizerBase, prompt: Text, response: str, *, ended: bool, eos: bool) -> list[int]:
    """Return the tokens of a prompt with its response, as a reward model reads them.

    Args:
        tokenizer: the reward model's.
        prompt: text, or turns.
        response: goes behind it.
        ended: whether the response has come to its end.
        eos: whether a response that has ended ends in EOS, as in training: one BOS where the tokenizer has one, and
            nothing behind the EOS.

    Raises:
        UserError: turns, and no chat template.
    """
    chat = not isinstance(prompt, str)
    text = prompt + response if isinstance(prompt, str) else _rendered(tokenizer, prompt, response, ended=ended)
    if not eos:
        plain: list[int] = tokenizer(text, add_special_tokens=not chat)["input_ids"]
        return plain
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids: list[int] = tokenizer(text)["input_ids"]
    while first is not None and ids[:2] == [first, first]:
        ids = ids[1:]
    if not ended:
        return ids[:-1] if ids[-1:] == [last] else ids
    if chat and last in ids:
        ids = ids[: len(ids) - ids[::-1].index(last)]
    return ids if ids[-1:] == [last] else [*ids, int(last)]


def _rendered(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], response: str, *, ended: bool) -> str:
    """Return a conversation as the model's own chat template writes it, open behind a response that goes on."""
    if tokenizer.chat_template is None:
        raise UserError("The reward model has no chat template, and the prompts are turns.", "Give prompts as text.")
    turns = [turn.to_dict() for turn in (*prompt, Message("assistant", response))]
    how = {}
    if not ended and response.strip():
        how = {"continue_final_message": True}
    elif not ended:  # nothing to go on from: the turn is opened and stands empty
        turns, how = turns[:-1], {"add_generation_prompt": True}
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **how))


def _reader(
    spec: ModelSpec, weights: Mapping[str, str | float] | None, budget: int
) -> tuple[Callable[[Sequence[TokenRows]], list[Tensor]], PreTrainedModel, tuple[float, ...]]:
    """Return a function from groups of rows to their outputs [rows, A], the model, and the weights of outputs."""
    try:
        rewards = open_reward_model(spec, weights)
    except NoTokenHead:  # an encoder, a head of several layers: it says one thing of a whole row
        model = read_classifier(spec).eval()
        lm, read = bare(model), partial(_own_outputs, model)
        return lambda groups: list(map(read, groups)), lm, output_weights(outputs_of(lm), weights, spec.path)
    return lambda groups: _packed_outputs(rewards.lm, groups, budget), bare(rewards.lm.model), rewards.weights


@torch.no_grad()
def _packed_outputs(lm: RewardLM, rows: Sequence[TokenRows], budget: int) -> list[Tensor]:
    groups = [_group(one) for one in rows]
    found: dict[int, Tensor] = {}
    for places in plan_pass([group.n_tokens for group in groups], budget):
        outputs = lm(pack([groups[place] for place in places])).rewards
        sizes = [len(groups[place].responses) for place in places]
        found |= dict(zip(places, torch.split(outputs, sizes), strict=True))
    return [found[place] for place in range(len(rows))]


def _group(rows: TokenRows) -> TokenGroup:
    """Return rows as a group with their common prefix as the prompt, read at the last token of each row."""
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
    first = np.asarray(rows[0][:shared], np.int32)
    responses = []
    for row in rows:
        ids = np.asarray([*row[shared:], row[-1]], np.int32)
        responses.append(TokenResponse(ids, np.arange(len(ids)) == len(ids) - 1, terminal=False))
    return TokenGroup(first, tuple(responses), is_pair=False, where="a text")


@torch.no_grad()
def _own_outputs(model: nn.Module, rows: TokenRows) -> Tensor:
    device = next(model.parameters()).device
    ids = [torch.tensor([row], device=device) for row in rows]
    return torch.cat([model(input_ids=row, attention_mask=torch.ones_like(row)).logits for row in ids])
