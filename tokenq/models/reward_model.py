"""A reward model of `transformers`: a sequence classifier that judges a prompt with its response by one number."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tokenq.errors import UserError
from tokenq.models.checkpoint import check_complete, from_pretrained, locate
from tokenq.models.classifier import ENDS_IN_EOS, output_weights, outputs_of
from tokenq.models.load import DTYPES, device_of
from tokenq.records import Message, Text


class RewardModel:
    """Scores responses; larger is better.

    Args:
        path: folder or hub id.
        dtype: "auto" for the checkpoint's own, or a key of `DTYPES`.
        device: "auto", "cpu", "cuda", …
        trust_remote_code: whether code that comes with the model may run.
        batch_size: texts in one forward.
        weights: of its outputs by name, where it has several; their weighted sum is the reward.

    Attributes:
        tokens: how many went through it so far.

    Raises:
        UserError: there is no such model, or its outputs are several and nobody says what each weighs.
    """

    def __init__(
        self,
        path: str,
        dtype: str = "auto",
        device: str = "auto",
        *,
        trust_remote_code: bool = False,
        batch_size: int = 8,
        weights: Mapping[str, str | float] | None = None,
    ) -> None:
        folder, _ = locate(path)
        code = {"trust_remote_code": trust_remote_code}
        options: dict[str, Any] = {**code, "dtype": DTYPES.get(dtype, "auto"), "output_loading_info": True}
        load = AutoModelForSequenceClassification.from_pretrained
        self._model, info = from_pretrained(load, folder, options, path, "a reward model")
        check_complete(path, info["missing_keys"], "a reward model")
        self._weights = output_weights(outputs_of(self._model), weights, path)
        self._tokenizer = from_pretrained(AutoTokenizer.from_pretrained, folder, code, path, "a tokenizer")
        self._model.to(device_of(device)).eval()
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = -1  # no token is padding: only rows of one length go together
        self._ends_in_eos = bool(self._model.config.to_dict().get(ENDS_IN_EOS))
        self._batch_size = batch_size
        self.tokens = 0

    @torch.no_grad()
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
        ended = [True] * len(responses) if complete is None else complete
        rows = [self._ids(*row) for row in zip(prompts, responses, ended, strict=True)]
        scores: list[float] = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            for place, reward in zip(places, self._rewards([rows[place] for place in places]), strict=True):
                scores[place] = reward
        return scores

    def _ids(self, prompt: Text, response: str, ended: bool) -> list[int]:
        chat = not isinstance(prompt, str)
        text = prompt + response if isinstance(prompt, str) else self._rendered(prompt, response, ended)
        if not self._ends_in_eos:
            own: list[int] = self._tokenizer(text, add_special_tokens=not chat)["input_ids"]
            return own
        # As in training: one BOS where the tokenizer has one, and nothing behind the EOS that ends the response.
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        ids: list[int] = self._tokenizer(text)["input_ids"]
        while bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        if not ended:
            return ids[:-1] if ids[-1:] == [eos] else ids
        if chat and eos in ids:
            ids = ids[: len(ids) - ids[::-1].index(eos)]
        return ids if ids[-1:] == [eos] else [*ids, eos]

    def _rewards(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Return the rewards of rows of like length; those of one length go together, so that nothing is padded."""
        rewards: list[float] = [0.0] * len(rows)
        for length in sorted({len(row) for row in rows}):
            places = [place for place, row in enumerate(rows) if len(row) == length]
            ids = torch.tensor([rows[place] for place in places], device=self._model.device)
            self.tokens += ids.numel()
            outputs = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
            weighted = (outputs @ outputs.new_tensor(self._weights)).tolist()
            for place, reward in zip(places, weighted, strict=True):
                rewards[place] = reward
        return rewards

    def _rendered(self, prompt: Sequence[Message], response: str, ended: bool) -> str:
        """Return a conversation as the model's own chat template writes it, open behind a response that goes on."""
        if self._tokenizer.chat_template is None:
            raise UserError(
                "The reward model has no chat template, and the prompts are turns.", "Give prompts as text."
            )
        turns = [{"role": turn.role, "content": turn.content} for turn in (*prompt, Message("assistant", response))]
        how = {}
        if not ended and response.strip():
            how = {"continue_final_message": True}
        elif not ended:  # nothing to go on from: the turn is opened and stands empty
            turns, how = turns[:-1], {"add_generation_prompt": True}
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, **how))
