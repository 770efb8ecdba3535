"""A reward model of `transformers`: a sequence classifier with one output that judges a prompt with its response."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tokenq.errors import UserError
from tokenq.models.load import DTYPES, check_complete, device_of, from_pretrained, locate
from tokenq.records import Message, Text


class RewardModel:
    """Scores responses; larger is better.

    Args:
        path: folder or hub id.
        dtype: "auto" for the checkpoint's own, or a key of `DTYPES`.
        device: "auto", "cpu", "cuda", …
        trust_remote_code: whether code that comes with the model may run.
        batch_size: texts in one forward.

    Attributes:
        tokens: how many went through it so far.

    Raises:
        UserError: there is no such model, or it has more than one output.
    """

    def __init__(
        self,
        path: str,
        dtype: str = "auto",
        device: str = "auto",
        *,
        trust_remote_code: bool = False,
        batch_size: int = 8,
    ) -> None:
        folder, _ = locate(path)
        code = {"trust_remote_code": trust_remote_code}
        options: dict[str, Any] = {**code, "dtype": DTYPES.get(dtype, "auto"), "output_loading_info": True}
        load = AutoModelForSequenceClassification.from_pretrained
        self._model, info = from_pretrained(load, folder, options, path, "a reward model")
        check_complete(path, info["missing_keys"], "a reward model")
        if self._model.config.num_labels != 1:
            raise UserError(
                f"{path} has {self._model.config.num_labels} outputs; a reward model has one.",
                "Name a classifier with num_labels=1.",
            )
        self._tokenizer = from_pretrained(AutoTokenizer.from_pretrained, folder, code, path, "a tokenizer")
        self._model.to(device_of(device)).eval()
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = -1  # no token is padding: only rows of one length go together
        self._batch_size = batch_size
        self.tokens = 0

    @torch.no_grad()
    def score(self, prompts: Sequence[Text], responses: Sequence[str]) -> list[float]:
        """Return the reward of each response to its prompt.

        Turns go through the reward model's own chat template; text is joined as it is.

        Args:
            prompts: one for each response.
            responses: the texts, complete or not.
        """
        texts = [self._joined(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        rows = [self._tokenizer(text, add_special_tokens=not chat)["input_ids"] for text, chat in texts]
        scores: list[float] = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            for place, reward in zip(places, self._rewards([rows[place] for place in places]), strict=True):
                scores[place] = reward
        return scores

    def _rewards(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Return the rewards of rows of like length; those of one length go together, so that nothing is padded."""
        rewards: list[float] = [0.0] * len(rows)
        for length in sorted({len(row) for row in rows}):
            places = [place for place, row in enumerate(rows) if len(row) == length]
            ids = torch.tensor([rows[place] for place in places], device=self._model.device)
            self.tokens += ids.numel()
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0].float().tolist()
            for place, reward in zip(places, output, strict=True):
                rewards[place] = reward
        return rewards

    def _joined(self, prompt: Text, response: str) -> tuple[str, bool]:
        if isinstance(prompt, str):
            return prompt + response, False
        turns = [{"role": turn.role, "content": turn.content} for turn in (*prompt, Message("assistant", response))]
        if self._tokenizer.chat_template is None:
            raise UserError(
                "The reward model has no chat template, and the prompts are turns.", "Give prompts as text."
            )
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False)), True
