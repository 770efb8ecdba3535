"""Pictures as responses: what the training loop puts into batches, beside or in place of text."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.records.examples import Role, TokenGroup, TokenResponse


@dataclass(frozen=True, eq=False)
class PictureResponse:
    """A picture that was drawn for a prompt, with the words that a refiner wrote for it where there is one.

    Attributes:
        latents: [1, *shape] of the picture alone, or [T+1, *shape] of its trajectory from the initial noise on.
        drawn_prompt: what the image model was given.
        n_steps: its actions: noise levels that are drawn for it, or the T steps of its trajectory.
        role: the part that it plays.
        words: `drawn_prompt` as the refiner wrote it, in tokens; None without a refiner.
        token_columns: by name, [n] a number for each action, words first.
        response_columns: by name, a number or a row of numbers for the whole of it.
    """

    latents: NDArray[np.float32]
    drawn_prompt: str
    n_steps: int
    role: Role = "plain"
    words: TokenResponse | None = None
    token_columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    response_columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_words(self) -> int:
        """Tokens that the refiner wrote."""
        return 0 if self.words is None else self.words.n_actions

    @property
    def n_actions(self) -> int:
        """Choices of the policy: tokens, then steps."""
        return self.n_words + self.n_steps

    def content_bytes(self) -> bytes:
        """Return what tells it from others: a hash of its latents and of what they were drawn from."""
        said = b"" if self.words is None else self.words.content_bytes()
        found = hashlib.sha256(self.drawn_prompt.encode() + b"\0" + said)
        found.update(np.ascontiguousarray(self.latents, "<f4").data)
        return found.digest()


@dataclass(frozen=True, eq=False)
class PictureGroup:
    """A prompt with its pictures: the unit of batching.

    Attributes:
        prompt: what was asked.
        responses: the pictures, in the order of the data; those of a pair are (chosen, rejected).
        is_pair: whether they begin with a pair.
        where: origin for error messages.
        prompt_ids: the prompt in the tokens of the refiner; empty without one.
    """

    prompt: str
    responses: tuple[PictureResponse, ...]
    is_pair: bool
    where: str
    prompt_ids: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def cost(self) -> int:
        """Noisy pictures that go through the denoiser, of which micro-batches have a limit."""
        return sum(response.n_steps for response in self.responses)

    def prompt_bytes(self) -> bytes:
        """Return what tells its prompt from others."""
        return self.prompt.encode()

    def only(self, places: Sequence[int]) -> "PictureGroup":
        """Return the group with some of its pictures."""
        return replace(self, responses=tuple(self.responses[place] for place in places))

    def words(self) -> TokenGroup:
        """Return what the refiner read and wrote.

        Raises:
            ValueError: there is no refiner.
        """
        found = [response.words for response in self.responses if response.words is not None]
        if len(found) < len(self.responses):
            raise ValueError(f"{self.where}: a picture without the words of a refiner")
        written = tuple(replace(one, role=own.role) for one, own in zip(found, self.responses, strict=True))
        return TokenGroup(self.prompt_ids, written, self.is_pair, self.where)
