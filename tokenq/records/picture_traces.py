"""What two image models say of a picture: a log-ratio for each denoising step and for each pixel of it.

A line of a file of picture traces is one picture; its PNG and its credit maps lie in a folder beside the file. Words of
a refiner come first, denoising steps after them: one sequence of actions with one value curve. Plain Python and numpy.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tokenq.errors import UserError
from tokenq.records.schema import SCHEMA, built, check_schema, json_lines, whole

Form = Literal["trajectory", "errors"]
"""What the numbers of steps are: log-densities of the steps in which the picture was drawn, or, where nobody kept
these, denoising errors at drawn noise levels with the weights that make them a log-ratio."""


@dataclass(frozen=True)
class PictureTrace:
    """A picture as policy and reference see it.

    Attributes:
        id: of its row, with "/chosen" or "/rejected" where the row has both.
        prompt: what was asked.
        drawn_prompt: what the image model was given.
        picture: the PNG, relative to the file of traces.
        maps: the credit maps, relative to the file of traces; see `read_maps`.
        form: what the numbers of steps are.
        beta: KL temperature of words.
        image_beta: KL temperature of steps.
        guidance: scale of classifier-free guidance under which both models were read.
        words: [W] what each token of the refiner adds to the prompt; empty without a refiner.
        word_ids: [W] the tokens.
        word_logps: [W] log π of the refiner; empty where none was read.
        word_ref_logps: [W] log π_ref of the refiner.
        levels: [T] noise level at which each step begins, from noise to picture.
        logps: [T] of the policy in nats, summed over dimensions; of errors up to a constant that both models share.
        ref_logps: [T] of the reference.
        policy: identity of the image model's weights.
        reference: identity of its reference's.
    """

    id: str
    prompt: str
    drawn_prompt: str
    picture: str
    maps: str
    form: str
    beta: float
    image_beta: float
    guidance: float
    words: tuple[str, ...]
    word_ids: tuple[int, ...]
    word_logps: tuple[float, ...]
    word_ref_logps: tuple[float, ...]
    levels: tuple[int, ...]
    logps: tuple[float, ...]
    ref_logps: tuple[float, ...]
    policy: str
    reference: str

    @property
    def word_rewards(self) -> list[float]:
        """[W] β log π/π_ref of every word; empty where no refiner was read."""
        return [self.beta * (own - ref) for own, ref in zip(self.word_logps, self.word_ref_logps, strict=True)]

    @property
    def step_rewards(self) -> list[float]:
        """[T] β log p/p_ref of every step."""
        return [self.image_beta * (own - ref) for own, ref in zip(self.logps, self.ref_logps, strict=True)]

    @property
    def sequence_reward(self) -> float:
        """Sum of the implicit rewards of all words and steps."""
        return sum(self.word_rewards) + sum(self.step_rewards)

    @property
    def prefix_values(self) -> list[float]:
        """[W+T+1] running sum of implicit rewards, over words and then steps."""
        return list(accumulate([*self.word_rewards, *self.step_rewards], initial=0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return the line of a file of traces; sums and implicit rewards stand there for readers without tokenq."""
        told = {
            "word_rewards": self.word_rewards,
            "step_rewards": self.step_rewards,
            "sequence_reward": self.sequence_reward,
        }
        return {"schema": SCHEMA, **asdict(self), **told}

    @classmethod
    def from_dict(cls, record: Any, where: str = "the record") -> "PictureTrace":
        """Return the trace of a line.

        Raises:
            UserError: it is no trace of a picture, or one of a newer version.
        """
        check_schema(record, where, "trace of a picture", "tokenq score")
        try:
            values = {name: record[name] for name in cls.__dataclass_fields__}
            columns = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            return built(cls, values | columns)
        except (KeyError, TypeError) as problem:
            raise UserError(f"{where} is no trace of a picture: {problem}.", "Score it again.") from None


def read_picture_traces(path: Path) -> Iterator[PictureTrace]:
    """Yield the traces of a file.

    Raises:
        UserError: a line is no trace of a picture, or the file was cut.
    """
    lines = json_lines(path, "Score the rows again.")
    return whole(path, (PictureTrace.from_dict(record, where) for where, record in lines))


Maps = NDArray[np.float32]
"""[T, height, width] implicit reward of every pixel of a latent in every step, summed over channels: step t sums to its
implicit reward."""


class ReadPicture(NamedTuple):
    """A trace with its files.

    Attributes:
        trace: the numbers.
        maps: of every step.
        png: the picture.
    """

    trace: PictureTrace
    maps: Maps
    png: bytes


def packed_maps(maps: Maps) -> bytes:
    """Return credit maps as the bytes of a safetensors file."""
    found: bytes = save({"maps": np.ascontiguousarray(maps, np.float32)})
    return found


def read_maps(path: Path) -> Maps:
    """Return the credit maps of a file.

    Raises:
        UserError: there is no such file, or it holds none.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found: Maps = file.get_tensor("maps")
            return found
    except (OSError, SafetensorError) as problem:
        raise UserError(f"The credit maps {path} cannot be read: {problem}.", "Score the picture again.") from None


def read_pictures(path: Path) -> Iterator[ReadPicture]:
    """Yield the traces of a file, each with its maps and its picture.

    Raises:
        UserError: a line or a file that it names cannot be read.
    """
    for one in read_picture_traces(path):
        try:
            png = (path.parent / one.picture).read_bytes()
        except OSError as problem:
            raise UserError(
                f"{path.parent / one.picture} cannot be read: {problem.strerror}.", "Score again."
            ) from None
        yield ReadPicture(one, read_maps(path.parent / one.maps), png)
