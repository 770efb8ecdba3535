"""A reward model that reads two responses at once, as PairRM does (LLM-Blender, arXiv 2306.02561): which is better?

A row is `[<|source|> prompt][<|candidate1|> response][<|candidate2|> response]`, each part with the tokenizer's own
special tokens. The encoder's last states at the three marks are h_s, h_1, h_2; a head of two layers gives s(h_s, h_i),
and s(h_s, h_1) − s(h_s, h_2) is the log-odds that the first candidate is better. Which stands first moves it, so both
orders are read and averaged. The checkpoint is that of `PairRM-hf`: no code of its own runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, DebertaV2Model, DebertaV2PreTrainedModel, PreTrainedTokenizerBase

from tokenq.errors import UserError
from tokenq.models.adapters import is_adapter_folder
from tokenq.models.checkpoint import check_complete, from_pretrained, locate
from tokenq.models.load import DTYPES, ModelSpec, device_of, make_deterministic
from tokenq.models.tokenizer import any_tokenizer

MARKS = {"<|source|>": "source_prefix_id", "<|candidate1|>": "cand1_prefix_id", "<|candidate2|>": "cand2_prefix_id"}
"""The marks of a row, each with the name that the configuration has for its id."""

LONGEST, LONGEST_PROMPT = 2048, 1224
"""Tokens of a row and of its prompt, as PairRM was trained; what a prompt leaves is shared by the candidates."""


class PairNetwork(DebertaV2PreTrainedModel):  # type: ignore[misc]  # transformers has no types here
    """The network of the checkpoint; the names of its parts are those of the weights.

    Args:
        config: of the encoder, with `n_tasks` outputs of the head and the ids of the marks.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(0.0), nn.Linear(2 * size, size), nn.Tanh(), nn.Dropout(0.0), nn.Linear(size, config.n_tasks)
        )
        self.post_init()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return [N] the log-odds that the first candidate of each row is better, a mean over the head's outputs."""
        states = self.pretrained_model(input_ids=ids, attention_mask=mask).last_hidden_state
        source, *candidates = (states[ids == getattr(self.config, name)] for name in MARKS.values())
        first, second = (self.head_layer(torch.cat((source, one), -1)).mean(-1) for one in candidates)
        odds: Tensor = first - second
        return odds


@dataclass(frozen=True)
class PairRanker:
    """A loaded ranker.

    Attributes:
        network: the network.
        tokenizer: its own.
        tokens_per_batch: most tokens of a forward, padding included.
    """

    network: PairNetwork
    tokenizer: PreTrainedTokenizerBase
    tokens_per_batch: int

    @torch.no_grad()
    def log_odds(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
        """Return the log-odds that the first of two responses to each prompt is better, both orders averaged."""
        rows = [self._row(*one) for one in zip(prompts, firsts, seconds, strict=True)]
        rows += [self._row(*one) for one in zip(prompts, seconds, firsts, strict=True)]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        found = [0.0] * len(rows)
        for places in _batches([len(rows[place]) for place in order], self.tokens_per_batch):
            some = [order[place] for place in places]
            for place, value in zip(some, self._read([rows[one] for one in some]), strict=True):
                found[place] = value
        half = len(prompts)
        return [(given - swapped) / 2 for given, swapped in zip(found[:half], found[half:], strict=True)]

    def _row(self, prompt: str, first: str, second: str) -> list[int]:
        ids = self._ids("<|source|>", prompt, LONGEST_PROMPT)
        room = (LONGEST - len(ids)) // 2
        return [*ids, *self._ids("<|candidate1|>", first, room), *self._ids("<|candidate2|>", second, room)]

    def _ids(self, mark: str, text: str, longest: int) -> list[int]:
        while any(one in text for one in MARKS):  # it would be read as another row
            for one in MARKS:
                text = text.replace(one, "")
        found: list[int] = self.tokenizer(mark + text, truncation=True, max_length=longest)["input_ids"]
        return found

    def _read(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        padding = self.network.config.pad_token_id or 0
        ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        device = self.network.device
        found: list[float] = self.network(ids.to(device), mask.to(device)).float().tolist()
        return found


def _batches(lengths: Sequence[int], budget: int) -> Iterator[range]:
    """Yield stretches of rows, shortest first, that fit a number of tokens when padded to their longest."""
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - start) > budget:
            yield range(start, end)
            start = end


def is_ranker(spec: ModelSpec) -> bool:
    """Return whether a reward model reads two responses at once."""
    if spec.loaded is not None or is_adapter_folder(spec.path):
        return False
    folder, gguf = locate(spec.path)
    if gguf:
        return False
    options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    config = from_pretrained(AutoConfig.from_pretrained, folder, options, spec.path, "a reward model").to_dict()
    return all(name in config for name in MARKS.values())


def open_ranker(spec: ModelSpec, tokens_per_batch: int = 4096) -> PairRanker:
    """Load a ranker.

    Args:
        spec: what to load.
        tokens_per_batch: most tokens of a forward.

    Raises:
        UserError: it is incomplete, or its tokenizer has other marks.
    """
    folder, _ = locate(spec.path)
    options: dict[str, Any] = {"revision": spec.revision, "dtype": DTYPES.get(spec.dtype, "auto")}
    options |= {"output_loading_info": True}
    network, info = from_pretrained(PairNetwork.from_pretrained, folder, options, spec.path, "a pairwise ranker")
    check_complete(spec.path, info["missing_keys"], "a pairwise ranker")
    tokenizer = any_tokenizer(spec)
    for mark, name in MARKS.items():
        if tokenizer.convert_tokens_to_ids(mark) != getattr(network.config, name):
            raise UserError(
                f"The tokenizer of {spec.path} has another id for {mark} than its configuration ({name}).",
                "Fetch both from the same place.",
            )
    make_deterministic(network)
    return PairRanker(network.to(device_of(spec.device)).eval(), tokenizer, tokens_per_batch)
