"""The refiner of prompts: a tiny causal language model that writes three canonical words to a request."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenq.demo.pictures.world import CANONICAL, VALUES, Vocabulary
from tokenq.demo.tokenizer import SPECIALS, word_tokenizer
from tokenq.listener import Progress, silent

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PART = "prompt_refiner"
"""The name of the segment of words."""

_MARK = ":"
"""Between a request and its refined prompt."""


def request_tokenizer(words: Vocabulary) -> "PreTrainedTokenizerFast":
    """Return the tokenizer of requests and refined prompts: each word with the space before it is a token."""
    from transformers import PreTrainedTokenizerFast

    every = [word for known in words.words for word in known]
    inner = word_tokenizer((f" {text}" for text in (*every, _MARK)), SPECIALS)
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)


class Refiner:
    """A language model that is shown a request and writes a word for colour, shape and place.

    Args:
        model: the language model.
        tokenizer: of requests and refined prompts.
        words: of requests.
    """

    def __init__(self, model: Any, tokenizer: "PreTrainedTokenizerFast", words: Vocabulary) -> None:
        self.model, self.tokenizer = model, tokenizer
        known = [tokenizer.convert_tokens_to_ids([f" {word}" for word in own]) for own in words.words]
        self._words = torch.tensor(known)
        self._begin, self._mark = tokenizer.convert_tokens_to_ids(["<bos>", f" {_MARK}"])

    def logps(self, requests: Tensor, values: Tensor) -> Tensor:
        """Return [n, 3] log π of each word of refined prompts, with gradient.

        Args:
            requests: [n, 3] words by number.
            values: [n, 3] what the prompts say.
        """
        written = self._ids(values)
        ids = torch.cat([self._context(requests), written], 1)[:, :-1]
        logits = self.model(input_ids=ids).logits[:, -written.shape[1] :]
        logps: Tensor = logits.float().log_softmax(-1).gather(-1, written[..., None])[..., 0]
        return logps

    @torch.no_grad()
    def write(self, requests: Tensor, generator: torch.Generator) -> Tensor:
        """Return [n, 3] the values of prompts drawn from π, of canonical words at their places alone."""
        ids = self._context(requests)
        chosen: list[Tensor] = []
        for known in self._words[:, :VALUES]:
            shares = self.model(input_ids=ids).logits[:, -1, known].float().softmax(-1)
            chosen.append(torch.multinomial(shares, 1, generator=generator))
            ids = torch.cat([ids, known[chosen[-1]]], 1)
        return torch.cat(chosen, 1)

    def _context(self, requests: Tensor) -> Tensor:
        edges = [torch.full((len(requests), 1), mark) for mark in (self._begin, self._mark)]
        return torch.cat([edges[0], self._ids(requests), edges[1]], 1)

    def _ids(self, numbers: Tensor) -> Tensor:
        return self._words[torch.arange(3), numbers]


def prompt_texts(values: Tensor) -> list[str]:
    """Return the refined prompts [n, 3] in words."""
    return [" ".join(CANONICAL[VALUES * place + value] for place, value in enumerate(row)) for row in values.tolist()]


def refiner_model(vocabulary_size: int, seed: int) -> "LlamaForCausalLM":
    """Return a Llama of some 85,000 weights, most of them embeddings of words, from nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def well_read(words: Vocabulary, seed: int, steps: int, progress: Progress = silent) -> Refiner:
    """Return a refiner that has read what people meant by requests in all words, rightly or not.

    Args:
        words: of requests.
        seed: of weights and examples.
        steps: of 256 requests each.
        progress: told of every step.
    """
    tokenizer = request_tokenizer(words)
    refiner = Refiner(refiner_model(len(tokenizer), seed), tokenizer, words)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(refiner.model.parameters(), lr=0.004, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        requests = torch.randint(len(words.words[0]), (256, 3), generator=generator)
        loss = -refiner.logps(requests, words.guesses(requests, generator)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    refiner.model.eval()
    return refiner
